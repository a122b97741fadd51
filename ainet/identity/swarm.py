"""The swarm as a device keeps it, and its beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ainet.errors import AinetError, Refused
from ainet.files import write_private
from ainet.identity import certificates as x
from ainet.identity.keys import is_weak, key_to_pem, node_id, verifies
from ainet.identity.roster import Issued, Member, Roster, SignedRoster

if TYPE_CHECKING:
    from pathlib import Path


SCHEMA = 1
_STATEMENT = b"ainet: the CA of this owner's swarm is\0"


class Swarm(msgspec.Struct, frozen=True):
    """The content of ``swarm.json``: one file, so that joining another swarm is one atomic step.

    Attributes
    ----------
    ca, certificate
        PEM.
    owner
        The owner's raw Ed25519 public key.
    statement
        The owner key's signature of "this is my swarm's CA".
    ca_key, owner_key
        PEM; None on devices that do not hold them.
    """

    ca: str
    certificate: str
    owner: bytes
    statement: bytes
    roster: SignedRoster
    ca_key: str | None = None
    owner_key: str | None = None
    schema: int = SCHEMA

    @classmethod
    def found(cls, device_key: Ed25519PrivateKey, name: str, now: float) -> Swarm:
        """Return a new swarm whose only member is the device, called `name`."""
        ca_key, owner_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        ca = x.make_ca(ca_key, now)
        certificate = x.issue(ca, ca_key, device_key.public_key(), now)
        swarm = x.swarm_of(ca)
        founder = Member(
            id=node_id(device_key.public_key()),
            name=name,
            added=now,
            certificates=(issued(certificate),),
            holds_ca=True,
        )
        return cls(
            ca=x.to_pem(ca).decode(),
            certificate=x.to_pem(certificate).decode(),
            owner=owner_key.public_key().public_bytes_raw(),
            statement=owner_key.sign(_STATEMENT + bytes.fromhex(swarm)),
            roster=Roster(swarm=swarm, serial=1, members=(founder,)).sign(ca_key),
            ca_key=key_to_pem(ca_key).decode(),
            owner_key=key_to_pem(owner_key).decode(),
        )

    @classmethod
    def read(cls, path: Path) -> Swarm:
        """Return what `save` wrote.

        Raises
        ------
        ValueError
            The file is damaged.
        AinetError
            A newer ainet wrote it.
        """
        swarm = msgspec.json.decode(path.read_bytes(), type=cls)
        if swarm.schema != SCHEMA:
            raise AinetError(
                f"{path} was written by a newer ainet (format {swarm.schema}, known here is {SCHEMA}). Update ainet."
            )
        return swarm

    def save(self, path: Path) -> None:
        """Write the file, readable by its owner only."""
        write_private(path, msgspec.json.encode(self))


class Admission(msgspec.Struct, frozen=True):
    """The answer to a device that joins: everything that `Identity.adopt` needs.

    Attributes
    ----------
    certificate, ca
        DER.
    owner
        The owner's raw Ed25519 public key.
    statement
        The owner key's signature of "this is my swarm's CA".
    roster
        Signed by the CA, with the new member in it.
    """

    certificate: bytes
    ca: bytes
    owner: bytes
    statement: bytes
    roster: SignedRoster


def has_weak_ca(path: Path) -> bool:
    """Tell whether the CA of the swarm in a file has a weak key: anybody can sign for it."""
    try:
        public = x509.load_pem_x509_certificate(Swarm.read(path).ca.encode()).public_key()
    except Exception:  # whatever else is wrong with the file is said by who reads it
        return False
    return isinstance(public, Ed25519PublicKey) and is_weak(public)


def issued(certificate: x509.Certificate) -> Issued:
    """Return the roster's note of a certificate."""
    return Issued(serial=x.serial_of(certificate), expires=certificate.not_valid_after_utc.timestamp())


def check_statement(owner: bytes, statement: bytes, swarm: str) -> None:
    """Raise `Refused` unless the owner (raw public key) signed that the CA of `swarm` is its own."""
    try:
        public_key = Ed25519PublicKey.from_public_bytes(owner)
    except ValueError as exc:
        raise Refused("The owner's key cannot be read.") from exc
    if not verifies(public_key, statement, _STATEMENT + bytes.fromhex(swarm)):
        raise Refused("The owner did not sign that this is the swarm's CA.")
