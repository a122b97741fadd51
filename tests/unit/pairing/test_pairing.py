import asyncio
import base64
import hashlib
import logging
import socket

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.effort import examples
from support.swarms import DAY, Device, at, devices, until

from ainet.errors import AinetError, PeerUnreachable, Refused, UsageError
from ainet.identity.certificates import to_der
from ainet.identity.credentials import pairing_client_context
from ainet.identity.identity import Identity
from ainet.links.frames import Admitted, Goodbye, JoinRequest, PairingHello, encode_frame, expect
from ainet.pairing.pairing import JoinBody
from ainet.pairing.tickets import MAX_TRIES, PREFIX, Ticket, TicketBook, proof
from ainet.wire.address import is_wildcard, join_address, outward_host, split_address
from ainet.wire.carrier import CHUNK, TcpCarrier
from ainet.wire.stream import SecureStream

# The text


tickets = st.builds(
    Ticket,
    st.lists(st.text(max_size=40), min_size=1, max_size=8).map(tuple),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=16, max_size=16),
)


@given(tickets)
def test_a_ticket_survives_being_copied(ticket):
    text = str(ticket)
    assert text.startswith("ainet1-")
    assert Ticket.parse(text) == ticket
    assert Ticket.parse(f"  {text[:20].upper()}\n {text[20:]}\n") == ticket


@settings(max_examples=examples(2000))
@given(st.one_of(st.text(), st.text("abcdefghijklmnopqrstuvwxyz234567-=18\n").map(PREFIX.__add__)))
@example(PREFIX)
@example("ainet1-" + "a" * 100_000)
def test_other_text_is_refused_as_a_ticket(text):
    with pytest.raises(Refused, match=r"This is not a ticket|The ticket is damaged"):
        Ticket.parse(text)


@settings(max_examples=examples(2000))
@given(st.binary(max_size=200))
@example(b"\x91" * 200)
@example(b"\xdf\xff\xff\xff\xff")
def test_bytes_with_a_right_checksum_are_still_checked(body):
    data = body + hashlib.sha256(body).digest()[:4]
    text = PREFIX + base64.b32encode(data).decode().rstrip("=")
    with pytest.raises(Refused, match="The ticket is damaged"):
        Ticket.parse(text)


def test_any_changed_letter_is_noticed():
    text = str(Ticket(("127.0.0.1:4711",), bytes(32), bytes(8), bytes(range(16))))
    assert len(text) < 160
    for position in range(len(PREFIX), len(text)):
        changed = text[:position] + ("a" if text[position] != "a" else "b") + text[position + 1 :]
        with pytest.raises(Refused, match="The ticket is damaged"):
            Ticket.parse(changed)
        with pytest.raises(Refused, match="The ticket is damaged"):
            Ticket.parse(text[:position] + text[position + 1 :])


def test_the_inviting_device_keeps_a_hash_of_the_secret_only():
    book = TicketBook(lambda: 0.0)
    ticket, _ = book.new(("a:1",), bytes(32), 10)
    issued = book._issued[ticket.id]
    assert issued.key == ticket.key == hashlib.sha256(b"ainet ticket key\0" + ticket.secret).digest()
    assert ticket.secret not in vars(issued).values()


def test_a_proof_holds_for_one_server_and_one_request_only():
    made = proof(b"k" * 32, b"certificate", b"request")
    assert made != proof(b"k" * 32, b"certificatf", b"request")
    assert made != proof(b"k" * 32, b"certificate", b"requesu")
    assert made != proof(b"l" * 32, b"certificate", b"request")
    assert made != proof(b"k" * 32, b"certificater", b"equest")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.2.3.4:80", ("1.2.3.4", 80)), ("[::1]:80", ("::1", 80)), ("host", ("host", 7)), ("::1", ("::1", 7))],
)
def test_addresses_are_read(text, expected):
    assert split_address(text, 7) == expected
    assert split_address(join_address(*expected)) == expected


@pytest.mark.parametrize("text", ["a:b", "a:99999", "a b:1", "a:1:", "[::1", "a:-1", "a:٣", "a\nb:1", "x" * 200 + ":1"])
def test_other_text_is_no_address(text):
    with pytest.raises(UsageError, match=r"is not an address. Write host:port"):
        split_address(text)


def test_the_outward_address_is_one():
    assert not is_wildcard(outward_host())


# Joining


async def test_a_device_joins_with_a_ticket(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    async with devices(tmp_path, "desk", "phone", joined=False) as (desk, phone):
        before = phone.identity.swarm
        invitation = await desk.pairing.invite()
        joined = await phone.pairing.join(invitation.ticket)

        assert (joined.swarm, joined.name, joined.members) == (desk.identity.swarm, "phone", ["desk", "phone"])
        assert joined.warning is None
        assert phone.identity.swarm == desk.identity.swarm != before
        assert (await desk.links.connect(phone.id)).peer_name == "phone"
        assert [state.name for state in desk.links.members()] == ["desk", "phone"]
        assert "phone joined the swarm" in caplog.text
        secret = msgspec.msgpack.encode(Ticket.parse(invitation.ticket).secret)
        assert invitation.ticket not in caplog.text
        assert secret not in (desk.folder / "identity" / "swarm.json").read_bytes()


async def test_the_listener_is_open_only_while_a_ticket_lives(tmp_path):
    async with devices(tmp_path, "desk", "phone", "tablet", joined=False) as (desk, phone, tablet):
        first = await desk.pairing.invite()
        second = await desk.pairing.invite()
        assert first.address == second.address
        assert first.address.startswith("127.0.0.1:")
        assert can_connect(first.address)

        await phone.pairing.join(first.ticket)
        assert can_connect(first.address)
        await tablet.pairing.join(second.ticket)
        assert not can_connect(first.address)

        third = await desk.pairing.invite(minutes=0.003)
        await until(lambda: not can_connect(third.address))
        await desk.pairing.invite()
    assert not can_connect(first.address)


def can_connect(address):
    with socket.socket() as probe:
        return probe.connect_ex(split_address(address)) == 0


async def test_a_taken_name_gets_a_number_at_pairing(tmp_path):
    async with devices(tmp_path, "desk", "phone", joined=False) as (desk, phone):
        invitation = await desk.pairing.invite()
        joined = await phone.pairing.join(invitation.ticket, name="Desk")
        assert joined.name == phone.identity.name == "Desk-2"
        with pytest.raises(UsageError, match="1 to 64 printable characters"):
            await phone.pairing.join(invitation.ticket, name="\0")


async def test_a_used_ticket_is_refused_on_both_sides(tmp_path, caplog):
    async with devices(tmp_path, "desk", "phone", "tablet", joined=False) as (desk, phone, tablet):
        used = await desk.pairing.invite()
        await desk.pairing.invite()  # keeps the listener open
        await phone.pairing.join(used.ticket)
        with pytest.raises(Refused, match="The ticket was used already: each lets one device join"):
            await tablet.pairing.join(used.ticket)
        await assert_refused(caplog, desk, tablet, "The ticket was used already")


async def test_an_expired_ticket_is_refused_on_both_sides(tmp_path, caplog):
    async with devices(tmp_path, "desk", "phone", joined=False) as (desk, phone):
        expired = await desk.pairing.invite(minutes=0.0001)
        await desk.pairing.invite()
        await until(lambda: desk.identity.now() > expired.expires)
        with pytest.raises(Refused, match=r"The ticket has expired\. Ask for a new one"):
            await phone.pairing.join(expired.ticket)
        await assert_refused(caplog, desk, phone, "The ticket has expired")


async def test_a_ticket_that_nobody_waits_for_says_what_to_do(tmp_path, caplog):
    async with devices(tmp_path, "desk", "phone", "tablet", joined=False) as (desk, phone, tablet):
        used = await desk.pairing.invite()
        await phone.pairing.join(used.ticket)
        with pytest.raises(PeerUnreachable, match=r"Nobody waits for this ticket any more .*Ask for a new one there"):
            await tablet.pairing.join(used.ticket)
        assert "Joining failed: Nobody waits" in caplog.text
        assert tablet.identity.holds_ca


async def test_a_ticket_does_not_survive_a_restart(tmp_path):
    async with devices(tmp_path, "desk", "phone", joined=False) as (desk, phone):
        old = await desk.pairing.invite()
        await desk.stop()
        await desk.open().start()
        await desk.pairing.invite(listen=old.address)
        with pytest.raises(Refused, match="did not give out that ticket, or was restarted since"):
            await phone.pairing.join(old.ticket)


async def test_a_wrong_secret_is_refused_five_times_and_then_the_ticket_is_void(tmp_path, caplog):
    async with devices(tmp_path, "desk", "phone", joined=False) as (desk, phone):
        invitation = await desk.pairing.invite()
        await desk.pairing.invite()
        wrong = str(msgspec.structs.replace(Ticket.parse(invitation.ticket), secret=bytes(16)))
        for number in range(1, MAX_TRIES + 1):
            with pytest.raises(Refused, match=rf"The ticket's secret is wrong \(try {number} of 5\)"):
                await phone.pairing.join(wrong)
        await assert_refused(caplog, desk, phone, "The ticket's secret is wrong (try 5 of 5)")
        for ticket in (wrong, invitation.ticket):
            with pytest.raises(Refused, match=r"The ticket is void: it was tried 5 times"):
                await phone.pairing.join(ticket)
        await assert_refused(caplog, desk, phone, "The ticket is void")


async def test_a_right_secret_after_four_wrong_ones_is_accepted(tmp_path):
    async with devices(tmp_path, "desk", "phone", joined=False) as (desk, phone):
        invitation = await desk.pairing.invite()
        wrong = str(msgspec.structs.replace(Ticket.parse(invitation.ticket), secret=bytes(16)))
        for _ in range(4):
            with pytest.raises(Refused, match="The ticket's secret is wrong"):
                await phone.pairing.join(wrong)
        assert (await phone.pairing.join(invitation.ticket)).members == ["desk", "phone"]


async def test_a_ticket_for_another_swarm_is_refused_on_both_sides(tmp_path, caplog):
    async with devices(tmp_path, "desk", "phone", joined=False) as (desk, phone):
        invitation = await desk.pairing.invite()
        tampered = str(msgspec.structs.replace(Ticket.parse(invitation.ticket), fingerprint=bytes(32)))
        with pytest.raises(Refused, match="The device that answers is not of the swarm that the ticket names"):
            await phone.pairing.join(tampered)
        await assert_refused(caplog, desk, phone, "not of the swarm that the ticket names")
        await phone.pairing.join(invitation.ticket)  # costs no try


async def assert_refused(caplog, inviter, joiner, words):
    """Both devices logged the words, and the joiner is as it was before."""
    for device in (inviter, joiner):
        await until(lambda device=device: any(
            record.name == device.log.name and record.levelno == logging.WARNING and words in record.getMessage()
            for record in caplog.records
        ))  # fmt: skip
    assert joiner.identity.holds_ca
    assert [member.name for member in joiner.identity.roster.members] == [joiner.name]
    assert joiner.name not in [member.name for member in inviter.identity.roster.members]
    assert Identity.open(joiner.folder, joiner.name).swarm == joiner.identity.swarm


async def test_of_two_joiners_with_one_ticket_exactly_one_wins(tmp_path):
    names = ["desk", *(f"phone{number}" for number in range(6))]
    async with devices(tmp_path, *names, joined=False) as (desk, *phones):
        invitation = await desk.pairing.invite()
        results = await asyncio.gather(
            *(phone.pairing.join(invitation.ticket) for phone in phones), return_exceptions=True
        )
        winners = [result for result in results if not isinstance(result, BaseException)]
        assert len(winners) == 1
        assert all(isinstance(result, (Refused, PeerUnreachable)) for result in results if result is not winners[0])
        assert len(desk.identity.roster.members) == 2
        assert sum(phone.identity.swarm == desk.identity.swarm for phone in phones) == 1


async def open_pairing(address):
    reader, writer = await asyncio.open_connection(*split_address(address), limit=CHUNK)
    stream = SecureStream(TcpCarrier(reader, writer), pairing_client_context(), server_side=False, peer="desk")
    await stream.handshake()
    return stream, await expect(stream, PairingHello)


def join_request(ticket, stream, identity, *, leaf=None, name="phone", request=None):
    body = msgspec.msgpack.encode(JoinBody(ticket.id, name, ("127.0.0.1:1",), request or identity.request()))
    return JoinRequest(body, proof(ticket.key, leaf or to_der(stream.certificate), body))


async def test_two_requests_that_arrive_together_admit_one(tmp_path):
    async with devices(tmp_path, "desk") as (desk,):
        invitation = await desk.pairing.invite()
        ticket = Ticket.parse(invitation.ticket)
        streams = [(await open_pairing(invitation.address))[0] for _ in range(2)]
        for number, stream in enumerate(streams):
            identity = Identity.open(tmp_path / f"joiner{number}", "phone")
            stream.write(encode_frame(join_request(ticket, stream, identity)))
        answers = [await expect(stream, Admitted | Goodbye) for stream in streams]
        for stream in streams:
            await stream.close()
        assert sorted(type(answer).__name__ for answer in answers) == ["Admitted", "Goodbye"]
        assert len(desk.identity.roster.members) == 2


async def test_a_proof_for_another_server_is_refused(tmp_path, caplog):
    """Someone in between shows its own certificate: what the joiner sends it is worthless at the real one."""
    async with devices(tmp_path, "desk", "phone", joined=False) as (desk, phone):
        invitation = await desk.pairing.invite()
        ticket = Ticket.parse(invitation.ticket)
        stream, _ = await open_pairing(invitation.address)
        asked = join_request(ticket, stream, phone.identity, leaf=to_der(phone.identity.certificate))
        stream.write(encode_frame(asked))
        with pytest.raises(Refused, match="The ticket's secret is wrong"):
            await expect(stream, Admitted)
        await stream.close()
        await until(lambda: "was refused: The ticket's secret is wrong" in caplog.text)


@pytest.mark.parametrize("case", ["changed", "stolen key", "name", "garbage", "too long", "other frame"])
async def test_a_request_to_join_must_be_whole(tmp_path, caplog, case):
    async with devices(tmp_path, "desk", "phone", joined=False) as (desk, phone):
        invitation = await desk.pairing.invite()
        ticket = Ticket.parse(invitation.ticket)
        stream, _ = await open_pairing(invitation.address)
        asked = join_request(ticket, stream, phone.identity)
        words = "The ticket's secret is wrong"
        if case == "changed":
            asked = JoinRequest(asked.body.replace(b"phone", b"phony"), asked.proof)
        elif case == "stolen key":
            # A certificate request in which another device's key was put: it does not sign it.
            request = bytearray(phone.identity.request())
            request[-1] ^= 1
            asked = join_request(ticket, stream, phone.identity, request=bytes(request))
            words = "not signed by the key that it names"
        elif case == "name":
            asked = join_request(ticket, stream, phone.identity, name="a\nb")
            words = "1 to 64 printable characters"
        elif case == "garbage":
            asked, words = JoinRequest(b"\xff" * 100, bytes(32)), "request to join cannot be read"
        elif case == "too long":
            asked, words = None, "announced a message of 1,000,000 bytes; 16,384 are allowed"
            stream.write((1_000_000).to_bytes(4, "big"))
        else:
            asked, words = PairingHello(1, b""), "sent PairingHello where JoinRequest was expected"
        if asked is not None:
            stream.write(encode_frame(asked))
        with pytest.raises(AinetError):
            await expect(stream, Admitted)
        await stream.close()
        await until(lambda: words in caplog.text)
        assert [member.name for member in desk.identity.roster.members] == ["desk"]
        # The ticket is not burnt by that.
        await phone.pairing.join(invitation.ticket)


async def test_a_full_disk_costs_no_ticket(tmp_path):
    async with devices(tmp_path, "desk", "phone", joined=False) as (desk, phone):
        invitation = await desk.pairing.invite()
        path = desk.folder / "identity" / "swarm.json"
        stored = path.read_bytes()
        path.unlink()
        path.mkdir()  # cannot be replaced by a file, even by root
        with pytest.raises(AinetError, match=r"swarm.json cannot be written: Is a directory"):
            await phone.pairing.join(invitation.ticket)
        assert len(desk.identity.roster.members) == 1
        assert phone.identity.holds_ca
        path.rmdir()
        path.write_bytes(stored)
        await phone.pairing.join(invitation.ticket)


async def test_a_plain_client_is_told_and_logged(tmp_path, caplog):
    async with devices(tmp_path, "desk") as (desk,):
        invitation = await desk.pairing.invite()
        reader, writer = await asyncio.open_connection(*split_address(invitation.address))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert b"waits for `ainet join` and speaks TLS 1.3 only" in await reader.read()
        writer.close()
        await writer.wait_closed()
        await until(lambda: "does not speak TLS" in caplog.text)


async def test_an_impostor_at_the_address_is_refused(tmp_path, caplog):
    """Another swarm's device answers where the ticket points: it shows a CA that the ticket does not name."""
    async with devices(tmp_path, "desk", "evil", "phone", joined=False) as (desk, evil, phone):
        invitation, trap = await desk.pairing.invite(), await evil.pairing.invite()
        forged = str(msgspec.structs.replace(Ticket.parse(invitation.ticket), addresses=(trap.address,)))
        with pytest.raises(Refused, match="is not of the swarm that the ticket names"):
            await phone.pairing.join(forged)
        await assert_refused(caplog, evil, phone, "not of the swarm that the ticket names")


async def test_an_impostor_with_the_right_ca_certificate_is_refused(tmp_path):
    """It can show the CA's certificate, which is no secret, but no leaf that this CA issued."""
    async with devices(tmp_path, "desk", "evil", "phone", joined=False) as (desk, evil, phone):
        invitation, trap = await desk.pairing.invite(), await evil.pairing.invite()
        forged = str(msgspec.structs.replace(Ticket.parse(invitation.ticket), addresses=(trap.address,)))
        evil.identity.ca = desk.identity.ca
        with pytest.raises(Refused, match="The certificate was not issued by this swarm's CA"):
            await phone.pairing.join(forged)
        assert phone.identity.holds_ca


async def test_a_clock_that_is_wrong_is_named(tmp_path):
    async with devices(tmp_path, "desk") as (desk,):
        phone = Device(tmp_path / "phone", "phone", now=at(-400 * DAY))
        try:
            await phone.start()
            with pytest.raises(Refused, match="Is the clock of one of the two devices wrong"):
                await phone.joins(desk)
        finally:
            await phone.stop()


async def test_who_may_invite_and_join(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone):
        with pytest.raises(Refused, match="holds the swarm's CA key can invite: run this on desk"):
            await phone.pairing.invite()
        other = Device(tmp_path / "other", "other")
        try:
            await other.start()
            with pytest.raises(UsageError, match="already belongs to a swarm, with desk"):
                await phone.joins(other)
            own = await desk.pairing.invite()
            with pytest.raises(UsageError, match="this device's own swarm"):
                await desk.pairing.join(own.ticket)
        finally:
            await other.stop()


@pytest.mark.parametrize(
    ("listen", "minutes", "words"),
    [
        ("203.0.113.1", 10, "Nobody can be waited for on 203.0.113.1"),
        ("not an address", 10, "is not an address"),
        (None, 0, "more than 0 and at most 1440 minutes"),
        (None, 10_000, "more than 0 and at most 1440 minutes"),
        (None, float("nan"), "more than 0 and at most 1440 minutes"),
    ],
)
async def test_an_impossible_invitation_leaves_nothing_behind(tmp_path, listen, minutes, words):
    async with devices(tmp_path, "desk") as (desk,):
        with pytest.raises(UsageError, match=words):
            await desk.pairing.invite(listen, minutes)
        assert not desk.pairing._listeners


async def test_listening_on_the_network_warns_when_the_node_does_not(tmp_path):
    async with devices(tmp_path, "desk") as (desk,):
        invitation = await desk.pairing.invite(listen="*")
        assert not is_wildcard(split_address(invitation.address)[0])
        if not invitation.address.startswith("127."):
            assert "This node accepts members only from the device itself" in invitation.warning
