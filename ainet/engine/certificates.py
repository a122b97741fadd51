"""Certificates that live as long as one Dask cluster."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from distributed import Security

#: A certificate ends with its cluster; these only bound it. The slack before now allows for clocks that differ.
LIFETIME = datetime.timedelta(days=3650)
CLOCK_SLACK = datetime.timedelta(days=1)


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
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ainet cluster")])
        self._certificate = self._sign(self._name, self._key.public_key(), ca=True)
        self.pem = _pem(self._certificate)

    def issue(self, name: str) -> tuple[DaskCredentials, int]:
        """Return new credentials for the participant `name` (at most 64 characters), and their serial number."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key.public_key(), ca=False)
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        return DaskCredentials(ca=self.pem, cert=_pem(certificate), key=key_pem), certificate.serial_number

    def _sign(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        usage = x509.KeyUsage(
            digital_signature=not ca,
            key_cert_sign=ca,
            crl_sign=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        # The key identifiers are what Python 3.13's VERIFY_X509_STRICT asks for.
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SLACK)
            .not_valid_after(now + LIFETIME)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
