"""X.509 certificates before they are signed: those of a swarm, and those of a Dask cluster."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, TypeAlias

from cryptography import x509
from cryptography.x509.oid import NameOID

from ainet.units import DAY

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    PublicKey: TypeAlias = Ed25519PublicKey | EllipticCurvePublicKey

#: Certificates begin this long (s) in the past: devices' clocks differ.
BACKDATE = DAY


def common_name(text: str) -> x509.Name:
    """Return a name that has one part."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def builder(
    subject: x509.Name, public_key: PublicKey, *, issuer: x509.Name, issuer_key: PublicKey, now: float, lifetime: float
) -> x509.CertificateBuilder:
    """Return a certificate for `public_key` that only has to be signed; one that is its own issuer is a CA's.

    Parameters
    ----------
    issuer, issuer_key
        Name and key of the CA.
    now, lifetime
        Unix seconds from which on it is valid, and for how many.
    """
    is_ca = public_key == issuer_key
    usage = x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
    # The key identifiers are what Python 3.13's VERIFY_X509_STRICT asks for.
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now - BACKDATE))
        .not_valid_after(_time(now + lifetime))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
