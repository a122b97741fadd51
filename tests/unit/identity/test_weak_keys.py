"""Keys of small order, for which anybody can sign, are accepted nowhere."""

from __future__ import annotations

import base64
import datetime
import logging

import msgspec
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from ainet.errors import Refused
from ainet.identity import certificates as x
from ainet.identity.contacts import Contact
from ainet.identity.identity import Identity
from ainet.identity.keys import is_weak, is_weak_id, node_id, public_key_of, verifies
from ainet.identity.swarm import check_statement
from ainet.swarm.feed import Body, Entry

PRIME = 2**255 - 19
ORDER_8 = [
    int.from_bytes(bytes.fromhex(text), "little")
    for text in (
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
]
#: Each point in each way in which it can be written: with the other sign of x, and with y as y + p where that fits.
ENCODINGS = sorted(
    {(y | sign << 255).to_bytes(32, "little") for y in (0, 1, PRIME - 1, PRIME, PRIME + 1, *ORDER_8) for sign in (0, 1)}
)


def keys():
    return [Ed25519PublicKey.from_public_bytes(raw) for raw in ENCODINGS]


def identity_of(raw):
    return base64.b32encode(raw).decode().rstrip("=").lower()


def forged(key, message):
    """Return a signature that holds for a key of small order, if one of the usual tricks finds it."""
    for r in ENCODINGS:
        signature = r + bytes(32)  # S = 0: then R = -h A, which is one of eight points
        try:
            key.verify(signature, message)
        except InvalidSignature:
            continue
        return signature
    return None


def test_the_forgeries_are_real():
    found = [key for key in keys() if any(forged(key, b"message %d" % n) for n in range(64))]
    assert len({int.from_bytes(key.public_bytes_raw(), "little") % 2**255 % PRIME for key in found}) >= 4


def test_the_keys_are_those_of_small_order():
    """Of edwards25519: -x² + y² = 1 + d x² y²; eight times each is the neutral element."""
    d = -121665 * pow(121666, -1, PRIME) % PRIME

    def x_of(y):
        square = (y * y - 1) * pow(d * y * y + 1, -1, PRIME) % PRIME
        root = pow(square, (PRIME + 3) // 8, PRIME)
        return root if root * root % PRIME == square else root * pow(2, (PRIME - 1) // 4, PRIME) % PRIME

    def double(point):
        (a, b), one = point, d * pow(point[0] * point[1], 2, PRIME)
        return (
            2 * a * b * pow(1 + one, -1, PRIME) % PRIME,
            (b * b + a * a) * pow(1 - one, -1, PRIME) % PRIME,
        )

    for raw in ENCODINGS:
        y = int.from_bytes(raw, "little") % 2**255 % PRIME
        assert double(double(double((x_of(y), y)))) == (0, 1)
        assert is_weak(Ed25519PublicKey.from_public_bytes(raw))


@pytest.mark.parametrize("raw", ENCODINGS, ids=bytes.hex)
def test_no_use_of_such_a_key_is_accepted(raw):
    key = Ed25519PublicKey.from_public_bytes(raw)
    assert is_weak_id(identity_of(raw))
    with pytest.raises(Refused, match=r"for which anybody can sign|no node id"):
        public_key_of(identity_of(raw))
    for n in range(40):
        message = b"%d" % n
        signature = forged(key, message)
        if signature is not None:
            assert not verifies(key, signature, message)
    # As an owner's key, and as the author of a log.
    with pytest.raises(Refused):
        check_statement(raw, bytes(64), "00" * 32)
    body = msgspec.msgpack.encode(Body(identity_of(raw), "log", 0, 0, b"", 0.0, {}))
    with pytest.raises(Refused, match=r"for which anybody can sign|no node id"):
        Entry(body, bytes(64)).open()


def certificate_for(key, signer, *, ca):
    """Return a certificate of a key, signed with another one: what a forger shows."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key)
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"ainet:{node_id(key)}")]), critical=False
        )
    )
    return builder.sign(signer, None)


@pytest.mark.parametrize("raw", ENCODINGS, ids=bytes.hex)
def test_no_certificate_with_such_a_key_is_accepted(raw):
    key, signer = Ed25519PublicKey.from_public_bytes(raw), Ed25519PrivateKey.generate()
    certificate = certificate_for(key, signer, ca=True)
    with pytest.raises(Refused):
        x.certificate_id(certificate)
    with pytest.raises(Refused):
        x.read_ca(x.to_der(certificate))
    assert not x.issued_by(certificate_for(signer.public_key(), signer, ca=False), certificate)


@given(st.binary(min_size=32, max_size=32))
def test_ordinary_keys_are_no_weak_ones(seed):
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    assert not is_weak(key)
    assert node_id(public_key_of(node_id(key))) == node_id(key)


def test_a_data_directory_that_knows_such_a_key_opens_and_says_so(tmp_path):
    identity = Identity.open(tmp_path, "desk")
    identity.contacts.add(Contact(id=identity_of(ENCODINGS[3]), name="eve", ca=b"", added=0.0))
    again = Identity.open(tmp_path, "desk")
    assert again.warnings == [
        "eve has a key for which anybody can sign: it is accepted nowhere. `ainet forget eve` ends that."
    ]
    assert again.contacts.authorities() == b""


def test_a_swarm_with_such_a_ca_is_left(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    identity = Identity.open(tmp_path, "desk")
    path = tmp_path / "identity" / "swarm.json"
    weak = certificate_for(keys()[0], Ed25519PrivateKey.generate(), ca=True)
    kept = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(kept | {"ca": x.to_pem(weak).decode()}))
    again = Identity.open(tmp_path, "desk")
    assert again.id == identity.id
    assert again.swarm != identity.swarm
    [warning] = again.warnings
    assert "CA key with which anybody can sign" in warning
    assert path.with_suffix(".weak").exists()
