"""The beginning of a link: both ends say who they are and bring each other's roster up to date."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from ainet.errors import AinetError, PeerUnreachable, ProtocolError, Refused
from ainet.identity.certificates import certificate_id, issued_by, serial_of
from ainet.links.frames import (
    MAX_EARLY_FRAME,
    OLDEST_PROTOCOL,
    PROTOCOL,
    Goodbye,
    Hello,
    Hint,
    RosterUpdate,
    Welcome,
    encode_frame,
    expect,
)
from ainet.links.standing import Standing, stranger_name
from ainet.wire.interfaces import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cryptography import x509

    from ainet.identity.identity import Identity
    from ainet.identity.roster import SignedRoster
    from ainet.wire.stream import SecureStream


class Greeting(msgspec.Struct, frozen=True):
    """The device at the other end of a link, and its greeting."""

    hello: Hello
    hints: tuple[Hint, ...]
    certificate_serial: str
    certificate_expires: float
    #: Of the roster that the other end knows now, at least.
    roster_digest: bytes
    standing: Standing = Standing.MEMBER


async def greet(
    stream: SecureStream,
    identity: Identity,
    *,
    addresses: tuple[str, ...],
    instance: str,
    started: float,
    hints: Iterable[Hint],
    take_roster: Callable[[SignedRoster], None],
    dialled: str | None,
    stranger: Callable[[str], None] | None = None,
) -> Greeting:
    """Greet the other end of a stream, whose TLS handshake is done; on return, both accepted each other.

    Nothing is served before: whoever knows the newer roster shows it first, so a member that was away learns of a
    removal here, also of its own.

    Parameters
    ----------
    addresses, instance, started, hints
        The greeting of this node: its addresses, its run and when that began, the addresses of others.
    take_roster
        Applies a roster that the other end shows.
    dialled
        The node id that was meant; None on the accepting end.
    stranger
        Raises where a device (node id) may not be linked as a stranger; None where both ends know each other.

    Raises
    ------
    Refused
        One end does not accept the other; both know why.
    """
    try:
        certificate = stream.certificate
        peer, serial = certificate_id(certificate), serial_of(certificate)
        if dialled is not None and peer != dialled:
            raise PeerUnreachable(f"Another device answers there than {stream.peer}.")
        if peer == identity.id:
            raise Refused("This is the device itself: a node needs no link to itself.")
        if stranger is not None:
            stranger(peer)
            nobody = Hello(PROTOCOL, identity.id, identity.id[:8], (), instance, 0, b"", started=started)
            return await _greet_other(
                stream, identity, certificate, nobody, name=stranger_name(peer), standing=Standing.STRANGER
            )
        if not issued_by(certificate, identity.ca):
            contact = identity.contacts.proven(peer, certificate)
            own = Hello(
                PROTOCOL, identity.id, identity.name, addresses, instance, 0, b"", machine=machine(), started=started
            )
            return await _greet_other(stream, identity, certificate, own, name=contact.name, standing=Standing.CONTACT)
        mine = identity.signed_roster
        hello = Hello(
            protocol=PROTOCOL,
            id=identity.id,
            name=identity.name,
            addresses=addresses,
            instance=instance,
            roster_serial=identity.roster.serial,
            roster_digest=mine.digest,
            machine=machine(),
            started=started,
        )
        stream.write(encode_frame(hello))
        other = await expect(stream, Hello, MAX_EARLY_FRAME)
        agree(other)
        if other.id != peer:
            raise ProtocolError("The other device named itself differently from its certificate.")
        known = mine.digest if hello.roster_serial > other.roster_serial else other.roster_digest
        if other.roster_digest != mine.digest:
            # With the same serial, two devices with the CA key changed it while apart: both show theirs.
            if hello.roster_serial >= other.roster_serial:
                stream.write(encode_frame(RosterUpdate(mine)))
            if other.roster_serial >= hello.roster_serial:
                take_roster((await expect(stream, RosterUpdate)).roster)
        check_peer(identity, peer, serial)
        stream.write(encode_frame(Welcome(tuple(hints))))
        await stream.drain()
        told = (await expect(stream, Welcome)).hints
    except AinetError as exc:
        with contextlib.suppress(AinetError):
            stream.write(encode_frame(Goodbye.from_error(exc)))
        raise
    return Greeting(other, told, serial, certificate.not_valid_after_utc.timestamp(), known)


async def _greet_other(
    stream: SecureStream,
    identity: Identity,
    certificate: x509.Certificate,
    hello: Hello,
    *,
    name: str,
    standing: Standing,
) -> Greeting:
    """Greet another owner's device: neither roster nor hints are shown to it, nor taken from it."""
    peer = certificate_id(certificate)
    if identity.problem:
        raise Refused(identity.problem)
    stream.write(encode_frame(hello))
    other = await expect(stream, Hello, MAX_EARLY_FRAME)
    agree(other)
    if other.id != peer:
        raise ProtocolError("The other device named itself differently from its certificate.")
    stream.write(encode_frame(Welcome()))
    await stream.drain()
    await expect(stream, Welcome, MAX_EARLY_FRAME)
    named = msgspec.structs.replace(other, name=name)
    expires = certificate.not_valid_after_utc.timestamp()
    return Greeting(named, (), serial_of(certificate), expires, b"", standing)


def agree(other: Hello) -> int:
    """Return the newest version of the protocol that both speak; raises `Refused` when there is none."""
    version = min(PROTOCOL, other.protocol)
    if version < max(OLDEST_PROTOCOL, other.oldest):
        older, newer = sorted((PROTOCOL, other.protocol))
        which = other.name if other.protocol < PROTOCOL else f"the device that {other.name} was to be linked with"
        raise Refused(f"The two devices speak different protocols ({older} and {newer}): update ainet on {which}.")
    return version


def check_peer(identity: Identity, peer: str, certificate_serial: str) -> None:
    """Raise `Refused` unless this node and the member `peer` may work together."""
    if identity.problem:
        raise Refused(identity.problem)
    if identity.roster.is_revoked(peer, certificate_serial):
        record = identity.roster.removed(peer)
        name = record.name if record else "the device"
        raise Refused(
            f"{name} was removed from the swarm and is refused. A new ticket (`ainet invite`) lets it join again."
        )
