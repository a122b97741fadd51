"""X.509 certificates of one swarm: the CA, its members' certificates, and requests for them.

All keys are Ed25519. A member's certificate names its node id in a URI, ``ainet:<node id>``, and is used on both
ends of mutual TLS. The id is derived from the certified key, so a certificate can never lend its holder another id.
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from ainet.errors import Refused
from ainet.identity.builder import builder, common_name
from ainet.identity.keys import is_weak, node_id
from ainet.units import DAY

LIFETIME = 90 * DAY
RENEW_AFTER = 30 * DAY
CA_LIFETIME = 30 * 365 * DAY


def make_ca(key: Ed25519PrivateKey, now: float) -> x509.Certificate:
    """Return a new self-signed CA certificate, valid from `now` (unix seconds) on."""
    public = key.public_key()
    name = _ca_name(public)
    return builder(name, public, issuer=name, issuer_key=public, now=now, lifetime=CA_LIFETIME).sign(key, None)


def issue(
    ca: x509.Certificate,
    ca_key: Ed25519PrivateKey,
    public_key: Ed25519PublicKey,
    now: float,
    *,
    lifetime: float = LIFETIME,
) -> x509.Certificate:
    """Return a certificate for the node with `public_key`, valid for `lifetime` seconds from `now` on."""
    identity = node_id(public_key)
    made = builder(
        common_name(identity),
        public_key,
        issuer=ca.subject,
        issuer_key=ca_key.public_key(),
        now=now,
        lifetime=lifetime,
    )
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"ainet:{identity}")])
    return made.add_extension(usage, critical=False).add_extension(name, critical=False).sign(ca_key, None)


def make_request(key: Ed25519PrivateKey) -> bytes:
    """Return a certificate signing request (DER): the public key, and the proof that its holder asks."""
    name = common_name(node_id(key.public_key()))
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, None)
    return request.public_bytes(serialization.Encoding.DER)


def read_request(der: bytes) -> Ed25519PublicKey:
    """Return the public key of a certificate signing request.

    Raises
    ------
    Refused
        The request is malformed, or not signed by the key that it names.
    """
    try:
        request = x509.load_der_x509_csr(der)
        public = request.public_key()
        if isinstance(public, Ed25519PublicKey) and request.is_signature_valid and not is_weak(public):
            return public
    except Exception as exc:  # the parser raises several kinds, depending on what is wrong
        raise Refused("The request for a certificate is malformed.") from exc
    raise Refused("The request for a certificate is not signed by the key that it names.")


def certificate_id(certificate: x509.Certificate) -> str:
    """Return the node id of a member's certificate.

    Raises
    ------
    Refused
        The certificate is not one of a node.
    """
    try:
        public = certificate.public_key()
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        is_named = isinstance(public, Ed25519PublicKey) and uris == [f"ainet:{node_id(public)}"]
        if isinstance(public, Ed25519PublicKey) and is_named and not is_weak(public):
            return node_id(public)
    except Exception as exc:  # the parser raises several kinds, depending on what is wrong
        raise Refused("The certificate does not name a node.") from exc
    raise Refused("The certificate does not name the node that its key belongs to.")


def issued_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Tell whether `ca` issued `certificate`, valid or not; a CA with a weak key issues nothing."""
    try:
        public = ca.public_key()
        if not isinstance(public, Ed25519PublicKey) or is_weak(public):
            return False
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def check_issued(certificate: x509.Certificate, ca: x509.Certificate, now: float) -> None:
    """Raise `Refused` unless `certificate` was issued by `ca` and is valid at `now`."""
    if not issued_by(certificate, ca):
        raise Refused("The certificate was not issued by this swarm's CA.")
    if not certificate.not_valid_before_utc.timestamp() <= now <= certificate.not_valid_after_utc.timestamp():
        raise Refused("The certificate is not valid now. Is the clock of one of the two devices wrong?")


def read_ca(der: bytes) -> x509.Certificate:
    """Return the CA certificate in `der`; raises `Refused` when it is none.

    Its names must be those of its key: OpenSSL looks for the issuer of a certificate by them, and a contact's CA with
    the names of this swarm's could keep members out.
    """
    try:
        ca = x509.load_der_x509_certificate(der)
        ca.verify_directly_issued_by(ca)
        public = ca.public_key()
        is_ca = ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        if is_ca and isinstance(public, Ed25519PublicKey) and _is_named_after(ca, public) and not is_weak(public):
            return ca
    except Exception as exc:  # the parser raises several kinds, depending on what is wrong
        raise Refused("The CA's certificate cannot be read.") from exc
    raise Refused("The certificate is not a CA's.")


def _ca_name(public: Ed25519PublicKey) -> x509.Name:
    return common_name(f"ainet swarm {swarm_of_key(public)[:16]}")


def _is_named_after(ca: x509.Certificate, public: Ed25519PublicKey) -> bool:
    """Tell whether the certificate's subject and extensions name this key and no other one."""
    mine = (
        x509.AuthorityKeyIdentifier.from_issuer_public_key(public),
        x509.SubjectKeyIdentifier.from_public_key(public),
    )
    called = [one.value for one in ca.extensions if isinstance(one.value, tuple(map(type, mine)))]
    return ca.subject == _ca_name(public) and all(name in mine for name in called)


def load(der: bytes) -> x509.Certificate:
    """Return the certificate in `der`; raises `Refused` when it is none."""
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as exc:
        raise Refused("The certificate cannot be read.") from exc


def swarm_of(ca: x509.Certificate) -> str:
    """Return the swarm's id: the hex SHA-256 of its CA's public key (SubjectPublicKeyInfo)."""
    public = ca.public_key()
    if not isinstance(public, Ed25519PublicKey):
        raise Refused("The CA's key is not an Ed25519 key.")
    return swarm_of_key(public)


def swarm_of_key(public_key: Ed25519PublicKey) -> str:
    """Return the id of the swarm whose CA has this key."""
    spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def serial_of(certificate: x509.Certificate) -> str:
    """Return the certificate's serial number in hex."""
    return f"{certificate.serial_number:x}"


def to_pem(certificate: x509.Certificate) -> bytes:
    """Return the certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def to_der(certificate: x509.Certificate) -> bytes:
    """Return the certificate as DER."""
    return certificate.public_bytes(serialization.Encoding.DER)
