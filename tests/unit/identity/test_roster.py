import asyncio
import logging

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from support.effort import examples
from support.swarms import DAY, Device, at, devices, until

from ainet.errors import NotFound, PeerUnreachable, Refused, UsageError
from ainet.identity import certificates
from ainet.identity.identity import Identity
from ainet.identity.roster import MAX_MEMBERS, Issued, Member, Revoked, Roster, SignedRoster
from ainet.links.request import Request

IDS = [letter * 52 for letter in "abcd"]


# Rosters by themselves


def test_a_changed_or_foreign_roster_is_refused():
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    roster = Roster(swarm="aa", serial=3, members=(Member(IDS[0], "desk", 0.0),))
    signed = roster.sign(key)
    assert signed.open(key.public_key(), "aa") == roster

    not_signed = "not signed by this swarm's CA"
    with pytest.raises(Refused, match=not_signed):
        roster.sign(other).open(key.public_key(), "aa")
    with pytest.raises(Refused, match=not_signed):
        SignedRoster(signed.body + b"\0", signed.signature).open(key.public_key(), "aa")
    with pytest.raises(Refused, match="another swarm's"):
        signed.open(key.public_key(), "bb")
    # What the CA key signed for another purpose is no roster.
    with pytest.raises(Refused, match=not_signed):
        SignedRoster(b"x", key.sign(b"x")).open(key.public_key(), "aa")


def test_a_full_swarm_takes_nobody_more():
    roster = Roster(swarm="aa", members=tuple(Member(f"member {i}", str(i), 0.0) for i in range(MAX_MEMBERS)))
    with pytest.raises(UsageError, match="The swarm is full: it has 1024 members"):
        roster.with_member(Member(IDS[2], "c", 0.0))


issued = st.integers(1, 3).map(lambda number: Issued(str(number), float(number)))
versions = st.integers(0, 3)


@st.composite
def rosters(draw):
    members, revoked = [], []
    for node_id in draw(st.sets(st.sampled_from(IDS))):
        version = draw(versions)
        certs = tuple(sorted(draw(st.sets(issued)), key=lambda certificate: certificate.serial))
        if draw(st.booleans()):
            members.append(Member(node_id, draw(st.sampled_from("xy")), 0.0, certs, version=version))
        else:
            revoked.append(Revoked(node_id, "x", 0.0, certs, version=version))
    return Roster("aa", draw(st.integers(0, 5)), tuple(members), tuple(revoked))


@settings(max_examples=examples(200), deadline=None)
@given(rosters(), rosters())
def test_merging_does_not_depend_on_who_merges(one, other):
    merged = one.merge(other)
    assert merged == other.merge(one)
    assert merged.merge(one) == merged == merged.merge(other)
    assert {r.id for r in (*merged.members, *merged.revoked)} == {
        r.id for roster in (one, other) for r in (*roster.members, *roster.revoked)
    }


@settings(max_examples=examples(200), deadline=None)
@given(rosters(), rosters())
def test_merging_forgets_no_removal_unless_the_device_was_admitted_again(one, other):
    merged = one.merge(other)
    for record in one.revoked:
        back = merged.member(record.id)
        assert back is None or back.version > record.version


# Rosters of identities


def trio(tmp_path):
    desk, phone, tablet = (Identity.open(tmp_path / name, name) for name in ("desk", "phone", "tablet"))
    for other in (phone, tablet):
        admission, _ = desk.admit(other.request(), other.name)
        other.adopt(admission, desk.swarm)
    assert phone.apply(desk.signed_roster)
    return desk, phone, tablet


def test_an_older_roster_never_replaces_a_newer_one(tmp_path):
    desk, phone, tablet = trio(tmp_path)
    old = desk.signed_roster
    desk.remove("tablet")
    assert phone.apply(desk.signed_roster)

    assert not phone.apply(old)
    assert not phone.apply(desk.signed_roster)
    assert not desk.apply(old)
    assert [m.name for m in phone.roster.members] == [m.name for m in desk.roster.members] == ["desk", "phone"]
    again = Identity.open(tmp_path / "phone", "phone")
    assert again.roster.removed(tablet.id)
    assert not again.apply(old)


def test_revocation_is_by_id_and_by_certificate(tmp_path):
    desk, phone, tablet = trio(tmp_path)
    serial = certificates_serial(tablet)
    desk.remove("tablet")

    assert desk.roster.is_revoked(tablet.id, "0")
    assert desk.roster.is_revoked(phone.id, serial)
    assert not desk.roster.is_revoked(phone.id, certificates_serial(phone))
    with pytest.raises(NotFound, match="No member is called 'tablet'"):
        desk.remove("tablet")


def certificates_serial(identity):
    return certificates.serial_of(identity.certificate)


def test_a_removed_device_says_so_and_works_alone(tmp_path):
    desk, _, tablet = trio(tmp_path)
    desk.remove("tablet")
    assert tablet.apply(desk.signed_roster)

    assert tablet.removed
    assert tablet.name == "tablet"
    assert tablet.problem.startswith("This device was removed from the swarm on ")
    assert "It goes on working alone." in tablet.problem
    assert "`ainet invite` on desk" in tablet.problem
    assert Identity.open(tmp_path / "tablet", "tablet").problem == tablet.problem


def test_a_removed_device_can_be_invited_again(tmp_path):
    desk, phone, tablet = trio(tmp_path)
    desk.remove("tablet")
    tablet.apply(desk.signed_roster)

    admission, member = desk.admit(tablet.request(), "tablet")
    tablet.adopt(admission, desk.swarm)

    assert member.version == 3
    assert tablet.problem is None
    assert phone.apply(desk.signed_roster)
    assert not phone.roster.is_revoked(tablet.id, certificates_serial(tablet))
    assert desk.remove("tablet").version == 4


def test_an_outdated_invitation_does_not_undo_what_the_joiner_knows(tmp_path):
    desk, phone, tablet = trio(tmp_path)
    old_desk = (tmp_path / "desk" / "identity" / "swarm.json").read_bytes()
    desk.remove("tablet")
    desk.admit(Identity.open(tmp_path / "x", "x").request(), "x")
    phone.apply(desk.signed_roster)
    (tmp_path / "desk" / "identity" / "swarm.json").write_bytes(old_desk)  # restored from a backup
    desk = Identity.open(tmp_path / "desk", "desk")

    admission, _ = desk.admit(phone.request(), "phone")
    with pytest.raises(Refused, match="does not know the latest changes"):
        phone.adopt(admission, desk.swarm)
    assert desk.apply(phone.signed_roster)
    assert desk.roster.removed(tablet.id)


def test_two_holders_of_the_key_lose_nothing_that_they_did_apart(tmp_path):
    desk, phone, tablet = trio(tmp_path)
    phone.import_key(desk.export_key("correct horse battery"), "correct horse battery")
    assert desk.apply(phone.signed_roster)

    desk.remove("tablet")
    phone.admit(Identity.open(tmp_path / "x", "x").request(), "x")
    phone.renew(tablet.request(), tablet.id)  # does not know of the removal
    assert desk.roster.serial < phone.roster.serial

    assert desk.apply(phone.signed_roster)
    assert phone.apply(desk.signed_roster)
    assert not desk.apply(phone.signed_roster)

    assert desk.signed_roster == phone.signed_roster
    assert {m.name for m in desk.roster.members} == {"desk", "phone", "x"}
    assert desk.roster.removed(tablet.id)
    # the certificate that was renewed meanwhile is revoked, too
    assert len(desk.roster.removed(tablet.id).certificates) == 2


# Between nodes


class Answer(msgspec.Struct):
    removed: list[str]


class Ask(Request, frozen=True):
    reply = Answer


def serve(*many: Device) -> None:
    """Let every device tell whom it knows to be removed at the moment when it serves."""
    for device in many:

        async def answer(link, request, device=device):
            return Answer([revoked.name for revoked in device.identity.roster.revoked])

        device.links.handle(Ask, answer)


async def test_a_removal_cuts_all_links_at_once_everywhere(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    async with devices(tmp_path, "desk", "phone", "tablet") as (desk, phone, tablet):
        told = {device.name: [] for device in (desk, phone, tablet)}
        for device in (desk, phone, tablet):
            device.links.on_revoked(told[device.name].append)
        never, asked = asyncio.Event(), asyncio.Event()

        async def answer(link, request):
            asked.set()
            await never.wait()

        phone.links.handle(Ask, answer)
        to_desk, to_phone = await tablet.links.connect(desk.id), await tablet.links.connect(phone.id)
        pending = asyncio.create_task(to_phone.request(Ask(), timeout=None))
        await asked.wait()
        await until(lambda: phone.links.open_link(desk.id))

        record = desk.links.trust.remove("tablet")

        assert record.id == tablet.id
        assert desk.links.open_link(tablet.id) is None
        await until(lambda: to_desk.closed.is_set() and to_phone.closed.is_set())
        with pytest.raises((Refused, PeerUnreachable)):
            await pending
        await until(lambda: all(told.values()))
        assert told == {"desk": [tablet.id], "phone": [tablet.id], "tablet": [tablet.id]}
        assert phone.links.open_link(tablet.id) is None
        assert phone.links.open_link(desk.id)

        with pytest.raises(Refused, match="This device was removed from the swarm"):
            await tablet.links.connect(desk.id)
        assert [state.name for state in tablet.links.members()] == ["tablet"]
        assert [state.name for state in phone.links.members()] == ["phone", "desk"]
        with pytest.raises(NotFound, match="tablet was removed from the swarm"):
            await phone.links.connect(tablet.id)
        assert "tablet was removed from the swarm" in caplog.text
        assert "The link to tablet is cut" in caplog.text


async def test_a_removed_device_that_was_away_is_refused_and_learns_why(tmp_path, caplog):
    async with devices(tmp_path, "desk", "phone") as (desk, phone):
        await phone.stop()
        await until(lambda: desk.links.open_link(phone.id) is None)
        desk.links.trust.remove("phone")
        phone.open()
        assert phone.identity.problem is None  # it does not know yet

        await phone.start()
        await until(lambda: phone.identity.problem)

        assert "removed from the swarm" in phone.identity.problem
        assert desk.links.open_link(phone.id) is None
        await until(lambda: "A connection from 127.0.0.1:" in caplog.text)
        refusals = {record.name: record.message for record in caplog.records if "refused" in record.message}
        assert "phone was removed" in refusals[desk.log.name] or "This device was removed" in refusals[desk.log.name]
        await until(lambda: "This device was removed from the swarm" in caplog.text)
        assert Identity.open(phone.folder, "phone").removed


async def test_a_removed_device_that_hides_the_roster_is_refused(tmp_path, caplog):
    async with devices(tmp_path, "desk", "phone") as (desk, phone):
        phone.identity.apply = lambda signed: False  # a changed program, which ignores what it is shown
        desk.links.trust.remove("phone")
        await until(lambda: phone.links.open_link(desk.id) is None)

        with pytest.raises(Refused, match="phone was removed from the swarm and is refused"):
            await phone.links.connect(desk.id)
        assert desk.links.open_link(phone.id) is None
        await until(lambda: "was refused: phone was removed from the swarm" in caplog.text)


async def test_a_member_that_was_away_learns_of_a_removal_before_it_serves_anything(tmp_path):
    async with devices(tmp_path, "desk", "phone", "tablet") as (desk, phone, tablet):
        await phone.stop()
        desk.links.trust.remove("tablet")
        phone.open()
        assert not phone.identity.roster.removed(tablet.id)
        revoked = []
        phone.links.on_revoked(revoked.append)
        serve(phone)

        await phone.start()
        link = await desk.links.connect(phone.id)
        answer = await link.request(Ask())

        assert answer.removed == ["tablet"]
        assert revoked == [tablet.id]
        with pytest.raises((Refused, PeerUnreachable, NotFound)):
            await tablet.links.connect(phone.id)


async def test_holders_of_the_key_that_changed_the_roster_apart_agree_when_they_meet(tmp_path):
    async with devices(tmp_path, "desk", "phone", "tablet", "old") as (desk, phone, tablet, old):
        text = await desk.pairing.export_key("correct horse battery")
        await phone.pairing.import_key(text, "correct horse battery")
        await until(lambda: desk.identity.roster.member(phone.id).holds_ca)
        await phone.stop()
        phone.open()
        phone.identity.remove("old")
        desk.identity.remove("tablet")  # the links do not learn of it: tablet must hear it from the others
        assert phone.identity.roster.serial == desk.identity.roster.serial
        await until(lambda: tablet.links.open_link(desk.id) and old.links.open_link(desk.id))

        await phone.start()
        await until(lambda: phone.identity.signed_roster == desk.identity.signed_roster)

        assert {revoked.name for revoked in desk.identity.roster.revoked} == {"old", "tablet"}
        await until(lambda: tablet.identity.removed and old.identity.removed)
        assert [link.peer_name for link in desk.links.links()] == ["phone"]


async def test_a_member_that_joined_later_is_known_to_all_and_found(tmp_path):
    async with devices(tmp_path, "desk", "phone", "tablet") as (desk, phone, tablet):
        serve(phone)
        await until(lambda: phone.identity.roster.member(tablet.id))
        link = await tablet.links.connect(phone.id)
        assert (await link.request(Ask())).removed == []
        names = {state.name: state.connected for state in tablet.links.members()}
        assert set(names) == {"tablet", "desk", "phone"}
        await until(lambda: all(state.connected for d in (desk, phone, tablet) for state in d.links.members()))


async def test_a_month_old_certificate_renews_itself(tmp_path):
    desk, phone = (Device(tmp_path / name, name, now=at(-31 * DAY)) for name in ("desk", "phone"))
    try:
        for device in (desk, phone):
            await device.start()
        await phone.joins(desk)
        old = phone.identity.not_after
        for device in (desk, phone):
            await device.stop()
            device.open()
        assert phone.identity.renewal_due
        assert 58 < phone.identity.days_left < 60

        for device in (desk, phone):
            await device.start()
        await until(lambda: phone.identity.not_after > old)

        assert phone.identity.days_left > 89
        assert not phone.identity.renewal_due
        await until(lambda: phone.identity.roster.member(phone.id).expires == phone.identity.not_after)
        assert Identity.open(phone.folder, "phone").not_after == phone.identity.not_after
        (state,) = [state for state in desk.links.members() if state.name == "phone"]
        assert state.certificate_days > 89
        await desk.stop()
        await desk.open().start()  # new connections are made with the new certificate
        link = await phone.links.connect(desk.id)
        assert link.peer_id == desk.id
    finally:
        for device in (desk, phone):
            await device.stop()


async def test_an_expired_certificate_is_refused_with_words_and_a_ticket_helps(tmp_path, caplog):
    desk, phone = (Device(tmp_path / name, name, now=at(-91 * DAY)) for name in ("desk", "phone"))
    try:
        for device in (desk, phone):
            await device.start()
        invitation = await desk.pairing.invite()
        joined = await phone.pairing.join(invitation.ticket)
        assert "expired" in joined.warning  # TLS itself judges by the real clock
        for device in (desk, phone):
            await device.stop()
            device.open()
        assert not desk.identity.expired  # it holds the key and has renewed itself
        assert phone.identity.expired

        for device in (phone, desk):
            await device.start()
        with pytest.raises(Refused, match=r"certificate expired on .*goes on working alone.*`ainet invite` on desk"):
            await phone.links.connect(desk.id)
        assert "This device's certificate expired on" in caplog.text
        with pytest.raises(Refused, match=r"The certificate of phone has expired. It must join again"):
            await desk.links.connect(phone.id)

        await phone.joins(desk)
        link = await phone.links.connect(desk.id)
        assert link.peer_name == "desk"
        assert [m.name for m in desk.identity.roster.members] == ["desk", "phone"]
    finally:
        for device in (desk, phone):
            await device.stop()


async def test_a_certificate_that_expires_meanwhile_ends_the_links(tmp_path, caplog):
    async with devices(tmp_path, "desk", "phone", "tablet") as (desk, phone, tablet):
        await until(lambda: phone.identity.roster.member(tablet.id))
        link = await phone.links.connect(tablet.id)
        await desk.stop()  # nobody is there to renew it
        phone.identity.now = at(91 * DAY)
        await until(link.closed.is_set)
        assert "This device's certificate expired on" in link.error.message
        assert "This device's certificate expired on" in caplog.text


async def test_the_certificate_of_a_peer_that_expires_meanwhile_ends_the_link(tmp_path, caplog):
    async with devices(tmp_path, "desk", "phone") as (desk, phone):
        link = await phone.links.connect(desk.id)
        await until(lambda: desk.links.open_link(phone.id))
        desk.identity.now = at(91 * DAY)  # it renews its own certificate, since it holds the key
        await until(link.closed.is_set)
        assert desk.identity.problem is None
        assert link.error.message == "The certificate of phone has expired. It must join again with a new ticket."
        assert "The certificate of phone has expired" in caplog.text
