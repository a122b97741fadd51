"""Contacts: keys pinned both ways, and nothing beyond what a contact may have."""

from __future__ import annotations

import contextlib
import stat

import msgspec
import pytest
from support.linked import Echo, Peer, dial
from support.swarms import DAY, Device, at, devices, until

from ainet.errors import AinetError, NotFound, PeerUnreachable, ProtocolError, Refused, UsageError
from ainet.identity.credentials import client_context
from ainet.links.frames import Goodbye, Introduce, OpenChannel, RosterUpdate, ToPort, encode_frame, read_frame
from ainet.links.request import Probe
from ainet.links.standing import Standing
from ainet.pairing.introductions import Card
from ainet.pairing.tickets import Ticket

DOMAIN = b"ainet introduction\0"


async def introduce(one, other):
    invitation = await one.pairing.invite(purpose="introduce")
    return await other.pairing.accept(invitation.ticket)


@contextlib.asynccontextmanager
async def contacts(tmp_path):
    """Two devices of different owners that were introduced and are linked."""
    async with devices(tmp_path, "ada", "bob", joined=False) as (ada, bob):
        await introduce(ada, bob)
        await until(
            lambda: ada.links.open_link(bob.id, Standing.CONTACT) and bob.links.open_link(ada.id, Standing.CONTACT)
        )
        yield ada, bob


async def test_two_owners_devices_pin_each_other(tmp_path):
    async with contacts(tmp_path) as (ada, bob):
        assert [contact.name for contact in ada.identity.contacts.all()] == ["bob"]
        assert [contact.id for contact in bob.identity.contacts.all()] == [ada.id]
        for device in (ada, bob):
            assert len(device.identity.roster.members) == 1  # nobody joined anything
            assert not device.links.links()
            assert stat.S_IMODE((device.folder / "identity" / "contacts.json").stat().st_mode) == 0o600
        link = ada.links.open_link(bob.id, Standing.CONTACT)
        assert len((await link.request(Probe(1000))).data) == 1000


async def test_contacts_find_each_other_again_after_a_restart(tmp_path):
    async with contacts(tmp_path) as (ada, bob):
        await bob.stop()
        await until(lambda: not ada.links.open_link(bob.id, Standing.CONTACT))
        await bob.open().start()
        await until(
            lambda: ada.links.open_link(bob.id, Standing.CONTACT) and bob.links.open_link(ada.id, Standing.CONTACT)
        )


async def test_a_contact_may_ask_nothing_that_only_members_may(tmp_path):
    async with contacts(tmp_path) as (ada, bob):
        Peer(bob)
        link = ada.links.open_link(bob.id, Standing.CONTACT)
        with pytest.raises(ProtocolError, match="does not know the request"):
            await link.request(Echo(b"x"))
        with pytest.raises(NotFound, match="No member has the id"):
            await ada.links.connect(bob.id)
        with pytest.raises(PeerUnreachable, match="no link to that member"):
            ada.links.channels.open(bob.id, ToPort(80))


@pytest.mark.parametrize("frame", ["channel", "roster"])
async def test_a_contact_that_acts_as_a_member_is_cut_off(tmp_path, frame):
    async with contacts(tmp_path) as (ada, bob):
        link = ada.links.open_link(bob.id, Standing.CONTACT)
        sent = OpenChannel(1, ToPort(80)) if frame == "channel" else RosterUpdate(ada.identity.signed_roster)
        link.transport.write(encode_frame(sent))
        await until(link.closed.is_set)
        assert "which only members may" in link.error.message
        assert not bob.links.channels.count(ada.id)


async def test_who_was_forgotten_is_refused_with_words(tmp_path):
    async with contacts(tmp_path) as (ada, bob):
        assert ada.links.trust.forget("bob").id == bob.id
        await until(lambda: not bob.links.open_link(ada.id, Standing.CONTACT))
        assert ada.links.known_addresses(bob.id) == []
        with pytest.raises(Refused, match=r"not of its swarm|no contact"):
            await bob.links.dial_anew(ada.id)
        with pytest.raises(NotFound, match="Contacts are: nobody"):
            ada.links.trust.forget("bob")


async def test_another_device_of_the_contacts_owner_is_no_contact(tmp_path):
    async with contacts(tmp_path) as (ada, bob), devices_of(tmp_path, bob) as phone:
        stream = await dial(
            ada.links.address,
            client_context(
                msgspec.structs.replace(
                    phone.identity.credentials(), ca=phone.identity.credentials().ca + ada.identity.credentials().ca
                )
            ),
        )
        await stream.handshake()
        frame = await read_frame(stream)
        assert isinstance(frame, Goodbye)
        assert "no contact here" in frame.message
        await stream.abort()
        assert not ada.links.open_link(phone.id, Standing.CONTACT)


@contextlib.asynccontextmanager
async def devices_of(tmp_path, owner):
    """A further device in the owner's swarm."""
    phone = Device(tmp_path / "phone", "phone")
    await phone.start()
    try:
        await phone.joins(owner)
        yield phone
    finally:
        await phone.stop()


async def test_names_are_made_different(tmp_path):
    async with devices(tmp_path, "ada", "bob", "carl", joined=False) as (ada, bob, carl):
        await introduce(ada, bob)
        real = carl.identity.contacts
        assert real.all() == []
        await introduce(ada, carl)
        ada.links.trust.forget("carl")
        renamed = msgspec.structs.replace(ada.identity.contacts.all()[0], id=carl.id)
        assert ada.identity.contacts.add(renamed).name == "bob 2"


async def test_a_name_that_is_none_is_refused(tmp_path, monkeypatch):
    async with devices(tmp_path, "ada", "bob", joined=False) as (ada, bob):
        monkeypatch.setattr(type(bob.identity), "name", "\x1b[31mbob\n")
        with pytest.raises(UsageError, match="printable"):
            await introduce(ada, bob)
        assert ada.identity.contacts.all() == []


async def test_tickets_are_for_one_purpose(tmp_path):
    async with devices(tmp_path, "ada", "bob", joined=False) as (ada, bob):
        introduction = await ada.pairing.invite(purpose="introduce")
        invitation = await ada.pairing.invite()
        with pytest.raises(Refused, match="use `ainet accept`"):
            await bob.pairing.join(introduction.ticket)
        with pytest.raises(Refused, match="for `ainet join`"):
            await bob.pairing.accept(invitation.ticket)
        # Also when the joiner's program does not care: the inviting device knows.
        forged = msgspec.structs.replace(Ticket.parse(introduction.ticket), purpose="join")
        with pytest.raises(Refused, match="did not give out that ticket"):
            await bob.pairing.join(str(forged))
        assert len(ada.identity.roster.members) == 1
        assert ada.identity.contacts.all() == []


@pytest.mark.parametrize("wrong", ["secret", "signature", "used", "expired", "own", "member"])
async def test_a_wrong_introduction_is_refused_and_leaves_nothing(tmp_path, monkeypatch, wrong):
    async with devices(tmp_path, "ada", "bob", joined=False) as (ada, bob):
        ticket = Ticket.parse((await ada.pairing.invite(purpose="introduce")).ticket)
        words = {
            "secret": "secret is wrong",
            "signature": "not signed by the key",
            "used": "used already|Nobody waits",
            "expired": "has expired",
            "own": "own swarm",
            "member": "own swarm",
        }[wrong]
        kind = UsageError if wrong in {"own", "member"} else AinetError
        accepting = bob
        if wrong == "secret":
            ticket = msgspec.structs.replace(ticket, secret=bytes(16))
        elif wrong == "signature":
            honest = bob.pairing.introductions.request
            monkeypatch.setattr(
                bob.pairing.introductions,
                "request",
                lambda *given: msgspec.structs.replace(honest(*given), signature=bytes(64)),
            )
        elif wrong == "used":
            await bob.pairing.accept(str(ticket))
            ada.links.trust.forget("bob")
        elif wrong == "expired":
            ada.identity.now = at(0.1 * DAY)
            ada.pairing._tickets._now = ada.identity.now
        elif wrong == "own":
            accepting = ada
        else:
            await bob.joins(ada)
            ticket = Ticket.parse((await ada.pairing.invite(purpose="introduce")).ticket)
        with pytest.raises(kind, match=words):
            await accepting.pairing.accept(str(ticket))
        assert ada.identity.contacts.all() == []


async def test_a_card_of_another_devices_certificate_is_refused(tmp_path):
    async with devices(tmp_path, "ada", "bob", "eve", joined=False) as (ada, bob, eve):
        ticket = Ticket.parse((await ada.pairing.invite(purpose="introduce")).ticket)
        honest = bob.pairing.introductions.request(ticket, b"leaf", ("127.0.0.1:1",))
        card = msgspec.msgpack.decode(honest.card, type=Card)
        monkey = eve.pairing.introductions

        def request(given, leaf, addresses):
            from ainet.pairing.tickets import proof

            body = msgspec.msgpack.encode(card)
            return Introduce(
                body, proof(given.key, leaf, body), eve.identity.sign(b"ainet introduction\0" + leaf + body)
            )

        monkey.request = request
        with pytest.raises(Refused, match="not signed by the key of its certificate"):
            await eve.pairing.accept(str(ticket))
        assert ada.identity.contacts.all() == []
