"""The roster: who belongs to the swarm and who was removed, signed by the swarm's CA.

A roster replaces another only when its serial is greater, so nobody can bring back a member by showing an old one.
Devices that hold the CA key can change it independently while they are apart; when they meet, `Roster.merge` joins the
changes: for every device the record with the greater version counts, and a removal wins over a tie.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated

import msgspec

from ainet.errors import Refused, UsageError
from ainet.identity.keys import verifies

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_MEMBERS = 1024
MAX_REVOKED = 2048
MAX_NAME = 64  # characters
MAX_CERTIFICATES = 8
_DOMAIN = b"ainet roster 1\0"

NodeId = Annotated[str, msgspec.Meta(pattern="^[a-z2-7]{52}$")]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{1,64}$")]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class Issued(msgspec.Struct, frozen=True):
    """A certificate: its serial number (hex) and when it expires (unix seconds)."""

    serial: Hex
    expires: float


Certificates = Annotated[tuple[Issued, ...], msgspec.Meta(max_length=2 * MAX_CERTIFICATES)]


class Member(msgspec.Struct, frozen=True):
    """A device that belongs to the swarm.

    `version` counts how often the device was admitted and removed, over all its records.
    """

    id: NodeId
    name: Name
    added: float
    certificates: Certificates = ()
    holds_ca: bool = False
    version: Count = 1

    @property
    def expires(self) -> float:
        """Expiry of the newest certificate (unix seconds); 0 when none is known."""
        return max((certificate.expires for certificate in self.certificates), default=0.0)


class Revoked(msgspec.Struct, frozen=True):
    """A device that was removed, with every certificate of it that was valid then."""

    id: NodeId
    name: Name
    when: float
    certificates: Certificates = ()
    holds_ca: bool = False
    version: Count = 2


class Roster(msgspec.Struct, frozen=True):
    """The members and the removed devices of a swarm, at one serial."""

    swarm: Hex
    serial: Count = 0
    members: Annotated[tuple[Member, ...], msgspec.Meta(max_length=MAX_MEMBERS)] = ()
    revoked: Annotated[tuple[Revoked, ...], msgspec.Meta(max_length=MAX_REVOKED)] = ()

    def member(self, node_id: str) -> Member | None:
        """Return the member with this id."""
        return next((member for member in self.members if member.id == node_id), None)

    def named(self, name: str) -> Member | None:
        """Return the member with this name or id; names differ by more than their case."""
        folded = name.casefold()
        return next((m for m in self.members if folded in (m.name.casefold(), m.id)), None)

    def removed(self, node_id: str) -> Revoked | None:
        """Return the record of the removed device with this id."""
        return next((revoked for revoked in self.revoked if revoked.id == node_id), None)

    def is_revoked(self, node_id: str, serial: str) -> bool:
        """Tell whether the device, or its certificate with this serial number (hex), was revoked."""
        return any(r.id == node_id or any(c.serial == serial for c in r.certificates) for r in self.revoked)

    def free_name(self, wanted: str, node_id: str) -> str:
        """Return `wanted`, with a number when another member is called so."""
        taken = {member.name.casefold() for member in self.members if member.id != node_id}
        name, number = wanted, 2
        while name.casefold() in taken:
            suffix = f"-{number}"
            name = wanted[: MAX_NAME - len(suffix)] + suffix
            number += 1
        return name

    def with_member(self, member: Member) -> Roster:
        """Return the roster with `member` added or replaced, and not among the removed devices."""
        if len(self.members) >= MAX_MEMBERS and self.member(member.id) is None:
            raise UsageError(f"The swarm is full: it has {MAX_MEMBERS} members. Remove one first.")
        return self._replace([*(m for m in self.members if m.id != member.id), member], self.revoked, member.id)

    def without_member(self, member: Member, now: float) -> Roster:
        """Return the roster with `member` among the removed devices."""
        if len(self.revoked) >= MAX_REVOKED:
            raise UsageError(f"{MAX_REVOKED} devices were removed from this swarm already. Begin a new one.")
        revoked = Revoked(
            id=member.id,
            name=member.name,
            when=now,
            certificates=member.certificates,
            holds_ca=member.holds_ca,
            version=member.version + 1,
        )
        return self._replace(self.members, [*self.revoked, revoked], "", member.id)

    def merge(self, other: Roster) -> Roster:
        """Return what both rosters together say; serial is the greater one."""
        newest: dict[str, Member | Revoked] = {}
        records: list[Member | Revoked] = [*self.members, *self.revoked, *other.members, *other.revoked]
        for record in records:
            known = newest.get(record.id)
            newest[record.id] = record if known is None else _join(known, record)
        records = [newest[node_id] for node_id in sorted(newest)]
        return msgspec.structs.replace(
            self,
            serial=max(self.serial, other.serial),
            members=tuple(record for record in records if isinstance(record, Member)),
            revoked=tuple(record for record in records if isinstance(record, Revoked)),
        )

    def says_the_same(self, other: Roster) -> bool:
        """Tell whether the records are the same, whatever the serial."""
        return _by_id(self.members) == _by_id(other.members) and _by_id(self.revoked) == _by_id(other.revoked)

    def sign(self, ca_key: Ed25519PrivateKey) -> SignedRoster:
        """Return the roster as it travels and is stored."""
        body = msgspec.msgpack.encode(self)
        return SignedRoster(body=body, signature=ca_key.sign(_DOMAIN + body))

    def _replace(
        self, members: Iterable[Member], revoked: Iterable[Revoked], admitted: str, removed: str = ""
    ) -> Roster:
        return msgspec.structs.replace(
            self,
            members=tuple(member for member in members if member.id != removed),
            revoked=tuple(record for record in revoked if record.id != admitted),
        )


class SignedRoster(msgspec.Struct, frozen=True):
    """An encoded roster and the CA's signature."""

    body: Annotated[bytes, msgspec.Meta(max_length=3 * 1024 * 1024)]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the encoded roster."""
        return hashlib.sha256(self.body).digest()

    def open(self, ca_public_key: Ed25519PublicKey, swarm: str) -> Roster:
        """Return the roster.

        Raises
        ------
        Refused
            The CA did not sign it, or it is another swarm's.
        """
        if not verifies(ca_public_key, self.signature, _DOMAIN + self.body):
            raise Refused("The roster is not signed by this swarm's CA.")
        try:
            roster = msgspec.msgpack.decode(self.body, type=Roster)
        except (msgspec.DecodeError, RecursionError) as exc:
            raise Refused(f"The roster cannot be read ({exc}). Is ainet here older than on the other device?") from exc
        if roster.swarm != swarm:
            raise Refused("The roster is another swarm's.")
        return roster


def check_name(name: str) -> str:
    """Return the device's `name` without outer blanks; raises `UsageError` when it cannot be one."""
    name = name.strip()
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise UsageError(f"A device's name has 1 to {MAX_NAME} printable characters.")
    return name


def keep_certificates(certificates: Iterable[Issued], now: float) -> tuple[Issued, ...]:
    """Return the newest of the certificates that are still valid at `now`, oldest first."""
    valid = {certificate.serial: certificate for certificate in certificates if certificate.expires > now}
    return tuple(sorted(valid.values(), key=lambda c: (c.expires, c.serial))[-MAX_CERTIFICATES:])


def _join(one: Member | Revoked, other: Member | Revoked) -> Member | Revoked:
    if one.version != other.version:
        newer = one if one.version > other.version else other
    else:
        # The same record, renewed on one side only: whichever, and both sides' certificates. The removal of a tie wins.
        newer = max(one, other, key=lambda r: (isinstance(r, Revoked), msgspec.msgpack.encode(r)))
    certificates = keep_certificates((*one.certificates, *other.certificates), 0.0)
    return msgspec.structs.replace(newer, certificates=certificates)


def _by_id(records: Iterable[Member] | Iterable[Revoked]) -> dict[str, Member | Revoked]:
    return {record.id: record for record in records}
