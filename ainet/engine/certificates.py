"""Certificates that live as long as one Dask cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ainet.identity.builder import builder, common_name
from ainet.units import DAY

if TYPE_CHECKING:
    from cryptography import x509
    from distributed import Security

#: A certificate ends with its cluster; this only bounds it (s).
LIFETIME = 3650 * DAY


class DaskCredentials(msgspec.Struct, frozen=True):
    """One participant's certificate and key, and the CA that it trusts; all three PEM texts."""

    ca: str
    cert: str
    key: str

    def security(self) -> Security:
        """Return Dask's `Security` with these credentials for every role: TLS 1.3, nothing else accepted."""
        import ssl

        from distributed import Security

        roles = ("client", "scheduler", "worker")
        return Security(
            require_encryption=True,
            tls_min_version=ssl.TLSVersion.TLSv1_3,
            tls_ca_file=self.ca,
            **{f"tls_{role}_cert": self.cert for role in roles},
            **{f"tls_{role}_key": self.key for role in roles},
        )


class ClusterCA:
    """A certificate authority (P-256, in memory only) for one Dask cluster: nobody else's certificate is accepted."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = common_name("ainet cluster")
        self._certificate = self._sign(self._name, self._key.public_key())
        self.pem = _pem(self._certificate)

    def issue(self, name: str) -> tuple[DaskCredentials, int]:
        """Return new credentials for the participant `name` (at most 64 characters), and their serial number."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(common_name(name), key.public_key())
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        return DaskCredentials(ca=self.pem, cert=_pem(certificate), key=key_pem), certificate.serial_number

    def _sign(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        issuer_key = self._key.public_key()
        made = builder(
            subject, public_key, issuer=self._name, issuer_key=issuer_key, now=time.time(), lifetime=LIFETIME
        )
        return made.sign(self._key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
