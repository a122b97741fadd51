import base64
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.swarms import DAY, at

from ainet.errors import AinetError, NotFound, Refused, UsageError
from ainet.files import write_private
from ainet.identity.certificates import (
    certificate_id,
    check_issued,
    issue,
    make_ca,
    make_request,
    read_request,
    swarm_of,
    to_pem,
)
from ainet.identity.credentials import Credentials, client_context, pairing_client_context, peer_id, server_context
from ainet.identity.identity import Identity
from ainet.identity.keys import is_node_id, key_to_pem, node_id, open_key


def test_a_new_device_is_the_only_member_of_its_own_swarm(tmp_path):
    identity = Identity.open(tmp_path, "desk")

    assert is_node_id(identity.id)
    assert identity.name == "desk"
    assert identity.holds_ca
    assert identity.swarm == swarm_of(identity.ca)
    assert certificate_id(identity.certificate) == identity.id
    assert [member.id for member in identity.roster.members] == [identity.id]
    assert 89 < identity.days_left <= 90
    assert not identity.expired
    assert identity.problem is None


def test_the_identity_is_kept(tmp_path):
    first = Identity.open(tmp_path, "desk")
    second = Identity.open(tmp_path, "desk")

    assert (second.id, second.swarm, second.roster) == (first.id, first.swarm, first.roster)
    assert second.credentials() == first.credentials()


def test_a_lone_device_can_be_renamed(tmp_path):
    before = Identity.open(tmp_path, "desk")
    after = Identity.open(tmp_path, "kitchen")

    assert (after.id, after.name) == (before.id, "kitchen")
    assert Identity.open(tmp_path, "kitchen").roster.serial == after.roster.serial


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "two\nlines", "bell\a"])
def test_an_impossible_name_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="1 to 64 printable characters"):
        Identity.open(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_only_the_owner_can_read_the_files(tmp_path):
    Identity.open(tmp_path, "desk")
    Identity.open(tmp_path, "kitchen")  # writes again

    folder = tmp_path / "identity"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "device.key": 0o600,
        "swarm.json": 0o600,
    }


@pytest.mark.parametrize("name", ["device.key", "swarm.json"])
@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\xff\xfe\x00"])
def test_a_damaged_file_is_named_and_nothing_is_overwritten(tmp_path, name, damage):
    Identity.open(tmp_path, "desk")
    path = tmp_path / "identity" / name
    path.write_bytes(damage)

    with pytest.raises(AinetError, match=f"{name} is damaged .*Restore it from a backup"):
        Identity.open(tmp_path, "desk")
    assert path.read_bytes() == damage


def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "file" / "in the way").mkdir(parents=True)
    with pytest.raises(AinetError, match=r"file cannot be written: Is a directory"):
        write_private(tmp_path / "file", b"x")
    with pytest.raises(AinetError, match=r"nowhere/file cannot be written: No such file or directory"):
        write_private(tmp_path / "nowhere" / "file", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_roster_changed_on_disk_is_noticed(tmp_path):
    identity = Identity.open(tmp_path, "desk")
    path = tmp_path / "identity" / "swarm.json"
    roster = identity.signed_roster
    forged = roster.body.replace(b"desk", b"dusk")
    text = path.read_text().replace(base64.b64encode(roster.body).decode(), base64.b64encode(forged).decode())
    path.write_text(text)

    with pytest.raises(AinetError, match="not signed by this swarm's CA"):
        Identity.open(tmp_path, "desk")


@pytest.mark.node
def test_the_identity_is_cheap_to_import():
    code = (
        "import sys, ainet.identity; print('asyncio' in sys.modules, any(m.startswith('jupyter') for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# TLS with credentials


def shake(server, client):
    """Do a handshake over a socket pair; return what each end got: its peer's id, or the error."""
    ends = socket.socketpair()
    results = [None, None]

    def run(which, context):
        ends[which].settimeout(10)
        try:
            with context.wrap_socket(ends[which], server_side=which == 0) as tls:
                if which == 0:
                    tls.sendall(b"x")
                else:
                    tls.recv(1)
                results[which] = peer_id(tls), tls.version()
        except (OSError, Refused) as exc:
            results[which] = exc
        finally:
            ends[which].close()

    threads = [threading.Thread(target=run, args=item) for item in enumerate((server, client))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def test_members_know_each_other_by_their_ids(tmp_path):
    desk, phone = pair(tmp_path)

    at_server, at_client = shake(server_context(desk.credentials()), client_context(phone.credentials()))

    assert at_server == (phone.id, "TLSv1.3")
    assert at_client == (desk.id, "TLSv1.3")


def test_a_certificate_of_another_swarm_is_refused_by_both_ends(tmp_path):
    desk, stranger = Identity.open(tmp_path / "desk", "desk"), Identity.open(tmp_path / "other", "other")

    for server, client in ((desk, stranger), (stranger, desk)):
        at_server, at_client = shake(server_context(server.credentials()), client_context(client.credentials()))
        assert isinstance(at_client, ssl.SSLCertVerificationError)
        assert isinstance(at_server, ssl.SSLError)
    accepts_any = pairing_client_context()
    at_server, _ = shake(server_context(desk.credentials()), accepts_any)
    assert isinstance(at_server, ssl.SSLError)
    assert at_server.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


def test_a_member_cannot_issue_certificates(tmp_path):
    desk, phone = pair(tmp_path)
    device_key = open_key(tmp_path / "phone" / "identity" / "device.key")
    other = Ed25519PrivateKey.generate()
    forged = issue(phone.certificate, device_key, other.public_key(), time.time())
    with pytest.raises(Refused, match="not issued by this swarm's CA"):
        check_issued(forged, desk.ca, time.time())

    evil = Credentials(to_pem(forged) + to_pem(phone.certificate), key_to_pem(other), desk.credentials().ca)
    at_server, _ = shake(server_context(desk.credentials()), client_context(evil))
    assert isinstance(at_server, ssl.SSLCertVerificationError)


def test_a_certificate_cannot_lend_its_holder_another_id(tmp_path, monkeypatch):
    desk, phone = pair(tmp_path)
    key, ca_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    ca = make_ca(ca_key, time.time())
    monkeypatch.setattr("ainet.identity.certificates.node_id", lambda public_key: phone.id)
    forged = issue(ca, ca_key, key.public_key(), time.time())
    monkeypatch.undo()
    with pytest.raises(Refused, match="does not name the node that its key belongs to"):
        certificate_id(forged)
    assert certificate_id(phone.certificate) == phone.id != desk.id


def test_older_tls_is_refused(tmp_path):
    desk = Identity.open(tmp_path, "desk")
    old = client_context(desk.credentials())
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    at_server, _ = shake(server_context(desk.credentials()), old)
    assert isinstance(at_server, ssl.SSLError)


def test_an_expired_certificate_is_refused_but_local_processes_still_connect(tmp_path):
    desk, phone = pair(tmp_path, now=at(-91 * DAY))
    desk, phone = (Identity.open(tmp_path / name, name) for name in ("desk", "phone"))

    assert phone.expired
    assert phone.days_left == pytest.approx(-1, abs=0.01)
    at_server, _ = shake(server_context(desk.credentials()), client_context(phone.credentials()))
    assert isinstance(at_server, ssl.SSLCertVerificationError)
    assert "expired" in str(at_server)

    assert "certificate expired on" in phone.problem
    assert "goes on working alone" in phone.problem
    assert "`ainet invite` on desk" in phone.problem
    local = phone.local_credentials()
    assert phone.local_credentials() == local
    assert shake(server_context(local), client_context(local)) == [(phone.id, "TLSv1.3")] * 2
    at_server, _ = shake(server_context(local), client_context(desk.credentials()))
    assert isinstance(at_server, ssl.SSLError)


# Membership


def pair(tmp_path, now=time.time):
    desk = Identity.open(tmp_path / "desk", "desk", now=now)
    phone = Identity.open(tmp_path / "phone", "phone", now=now)
    admission, _ = desk.admit(phone.request(), "phone")
    phone.adopt(admission, desk.swarm)
    return desk, phone


def test_a_joined_device_leaves_its_own_keys_behind(tmp_path):
    desk, phone = pair(tmp_path)

    assert not phone.holds_ca
    assert phone.swarm == desk.swarm
    assert phone.roster == desk.roster
    again = Identity.open(tmp_path / "phone", "renamed later")
    assert (again.id, again.name, again.swarm) == (phone.id, "phone", desk.swarm)
    stored = (tmp_path / "phone" / "identity" / "swarm.json").read_text()
    assert '"ca_key":null' in stored
    assert '"owner_key":null' in stored


def test_a_taken_name_gets_a_number(tmp_path):
    desk, _ = pair(tmp_path)
    names = []
    for number in range(3):
        other = Identity.open(tmp_path / str(number), "Phone")
        _, member = desk.admit(other.request(), "Phone")
        names.append(member.name)
    assert names == ["Phone-2", "Phone-3", "Phone-4"]
    other = Identity.open(tmp_path / "long", "x")
    desk.admit(other.request(), "y" * 64)
    _, member = desk.admit(Identity.open(tmp_path / "long2", "x").request(), "y" * 64)
    assert member.name == "y" * 62 + "-2"


def test_only_the_holder_of_the_ca_key_admits_removes_renews_and_exports(tmp_path):
    _, phone = pair(tmp_path)
    words = "holds the swarm's CA key can {}: run this on desk"
    with pytest.raises(Refused, match=words.format("invite")):
        phone.admit(phone.request(), "x")
    with pytest.raises(Refused, match=words.format("remove a member")):
        phone.remove("desk")
    with pytest.raises(Refused, match=words.format("renew certificates")):
        phone.renew(phone.request(), phone.id)
    with pytest.raises(Refused, match=words.format("export its key")):
        phone.export_key("correct horse battery")


def test_a_request_must_be_signed_by_its_own_key(tmp_path):
    key = Ed25519PrivateKey.generate()
    request = make_request(key)
    assert node_id(read_request(request)) == node_id(key.public_key())

    for position in range(0, len(request), 7):
        forged = bytearray(request)
        forged[position] ^= 1
        with pytest.raises(Refused, match="request for a certificate is"):
            read_request(bytes(forged))


def test_a_member_cannot_have_another_ones_certificate_renewed(tmp_path):
    desk, phone = pair(tmp_path)
    with pytest.raises(Refused, match="Only a member's own certificate"):
        desk.renew(desk.request(), phone.id)
    with pytest.raises(Refused, match="Only a member's own certificate"):
        desk.renew(make_request(Ed25519PrivateKey.generate()), phone.id)
    with pytest.raises(Refused, match="not for this device's key"):
        phone.accept_renewal(desk.renew(desk.request(), desk.id))


def test_the_holder_renews_its_own_certificate_after_30_days(tmp_path):
    young = Identity.open(tmp_path, "desk", now=at(-29 * DAY))
    assert Identity.open(tmp_path, "desk").not_after == young.not_after

    later = Identity.open(tmp_path, "desk", now=at(2 * DAY))
    assert later.not_after > young.not_after + 30 * DAY
    long_after = Identity.open(tmp_path, "desk", now=at(200 * DAY))
    assert not long_after.expired


@pytest.mark.parametrize("field", ["certificate", "ca", "owner", "statement", "roster"])
def test_an_admission_that_does_not_hold_together_is_refused(tmp_path, field):
    desk = Identity.open(tmp_path / "desk", "desk")
    evil = Identity.open(tmp_path / "evil", "evil")
    phone = Identity.open(tmp_path / "phone", "phone")
    good, _ = desk.admit(phone.request(), "phone")
    bad, _ = evil.admit(phone.request(), "phone")
    mixed = msgspec.structs.replace(good, **{field: getattr(bad, field)})

    swarm, members = phone.swarm, phone.roster
    with pytest.raises(Refused):
        phone.adopt(mixed, desk.swarm)
    assert (phone.swarm, phone.roster) == (swarm, members)
    assert Identity.open(tmp_path / "phone", "phone").swarm == swarm
    phone.adopt(good, desk.swarm)


def test_a_device_with_other_members_does_not_join_elsewhere(tmp_path):
    desk, phone = pair(tmp_path)
    other = Identity.open(tmp_path / "other", "other")
    with pytest.raises(UsageError, match="already belongs to a swarm, with phone"):
        desk.check_may_join(other.swarm)
    with pytest.raises(UsageError, match="already belongs to a swarm, with desk"):
        phone.check_may_join(other.swarm)
    with pytest.raises(UsageError, match="this device's own swarm"):
        desk.check_may_join(desk.swarm)
    phone.check_may_join(desk.swarm)  # again, for instance after its certificate expired


def test_removing_names_who_could_be_meant(tmp_path):
    desk, phone = pair(tmp_path)
    with pytest.raises(NotFound, match=r"No member is called 'tablet'\. Members are: phone\."):
        desk.remove("tablet")
    with pytest.raises(UsageError, match="This is the device itself"):
        desk.remove("desk")
    record = desk.remove("PHONE")
    assert (record.id, record.name) == (phone.id, "phone")
    assert {c.serial for c in record.certificates} == {f"{phone.certificate.serial_number:x}"}


# The key, exported and imported

PASSPHRASE = "correct horse battery staple"


def test_the_key_moves_to_another_member(tmp_path):
    desk, phone = pair(tmp_path)
    text = desk.export_key(PASSPHRASE)
    assert b"PRIVATE" not in text.encode()

    phone.import_key(text, PASSPHRASE)

    assert phone.holds_ca
    assert phone.roster.member(phone.id).holds_ca
    assert phone.export_key(PASSPHRASE) != text
    assert Identity.open(tmp_path / "phone", "phone").holds_ca
    tablet = Identity.open(tmp_path / "tablet", "tablet")
    admission, _ = phone.admit(tablet.request(), "tablet")
    tablet.adopt(admission, desk.swarm)
    assert desk.apply(phone.signed_roster)
    assert [m.name for m in desk.roster.members] == ["desk", "phone", "tablet"]


def test_a_wrong_passphrase_or_text_imports_nothing(tmp_path):
    desk, phone = pair(tmp_path)
    text = desk.export_key(PASSPHRASE)
    tampered = text[:-6] + ("A" if text[-6] != "A" else "B") + text[-5:]
    for bad, passphrase, words in (
        (text, "something else", "passphrase does not open"),
        (tampered, PASSPHRASE, "passphrase does not open"),
        ("hello", PASSPHRASE, "This is not an exported key"),
        ("ainetkey1-!!", PASSPHRASE, "This is not an exported key"),
        ("ainetkey1-" + "A" * 20_000, PASSPHRASE, "This is not an exported key"),
    ):
        with pytest.raises(Refused, match=words):
            phone.import_key(bad, passphrase)
    with pytest.raises(UsageError, match="at least 10 characters"):
        desk.export_key("short")
    assert not phone.holds_ca


def test_the_key_of_another_swarm_is_refused(tmp_path):
    _, phone = pair(tmp_path)
    other = Identity.open(tmp_path / "other", "other")
    with pytest.raises(Refused, match="key of another swarm"):
        phone.import_key(other.export_key(PASSPHRASE), PASSPHRASE)


def test_the_ca_is_not_a_node(tmp_path):
    key = Ed25519PrivateKey.generate()
    with pytest.raises(Refused, match="does not name a node"):
        certificate_id(make_ca(key, time.time()))
