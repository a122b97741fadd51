"""The beginning of a link: both ends say who they are and bring each other's roster up to date."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from ainet.errors import AinetError, ProtocolError, Refused
from ainet.identity.certificates import certificate_id, serial_of
from ainet.network.frames import (
    MAX_EARLY_FRAME,
    PROTOCOL,
    Goodbye,
    Hello,
    Hint,
    RosterUpdate,
    Welcome,
    encode_frame,
    expect,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ainet.identity import Identity, SignedRoster
    from ainet.network.stream import SecureStream


class Greeting(msgspec.Struct, frozen=True):
    """Who is at the other end of a link, and what it told."""

    hello: Hello
    hints: tuple[Hint, ...]
    certificate_serial: str
    certificate_expires: float
    #: Of the roster that both ends know now.
    roster_digest: bytes


async def greet(
    stream: SecureStream,
    identity: Identity,
    hello: Hello,
    hints: Iterable[Hint],
    take_roster: Callable[[SignedRoster], None],
    *,
    dialled: str | None,
) -> Greeting:
    """Greet the other end of a stream, whose TLS handshake is done; on return, both accepted each other.

    Nothing is served before: whoever knows the newer roster shows it first, so a member that was away learns of a
    removal here, also of its own.

    Parameters
    ----------
    hello
        What this node says.
    take_roster
        Applies a roster that the other end shows.
    dialled
        The node id that was meant; None on the accepting end.

    Raises
    ------
    Refused
        One end does not accept the other; both know why.
    """
    try:
        certificate = stream.certificate
        peer = certificate_id(certificate)
        if dialled is not None and peer != dialled:
            msg = f"Another device answers at {stream.peer} than the one that was dialled."
            raise Refused(msg)
        shown = identity.signed_roster
        hello = msgspec.structs.replace(hello, roster_serial=identity.roster.serial, roster_digest=shown.digest)
        stream.write(encode_frame(hello))
        other = await expect(stream, Hello, MAX_EARLY_FRAME)
        if other.protocol != PROTOCOL:
            msg = f"The two devices speak different protocols ({PROTOCOL} and {other.protocol}): update ainet on both."
            raise Refused(msg)
        if other.id != peer:
            msg = "The other device named itself differently from its certificate."
            raise ProtocolError(msg)
        if other.roster_digest != hello.roster_digest:
            # With the same serial, two devices with the CA key changed it while apart: both show theirs.
            if hello.roster_serial >= other.roster_serial:
                stream.write(encode_frame(RosterUpdate(shown)))
            if other.roster_serial >= hello.roster_serial:
                take_roster((await expect(stream, RosterUpdate)).roster)
        check_peer(identity, peer, serial_of(certificate))
        # What this end knows now may be newer than what it showed above; whoever keeps the link compares again.
        stream.write(encode_frame(Welcome(tuple(hints))))
        digest = identity.signed_roster.digest
        await stream.drain()
        hints = (await expect(stream, Welcome)).hints
    except AinetError as exc:
        with contextlib.suppress(AinetError):
            stream.write(encode_frame(Goodbye.from_error(exc)))
        raise
    return Greeting(other, hints, serial_of(certificate), certificate.not_valid_after_utc.timestamp(), digest)


def check_peer(identity: Identity, peer: str, certificate_serial: str) -> None:
    """Raise `Refused` unless this node and the member `peer` may work together."""
    if identity.problem:
        raise Refused(identity.problem)
    if identity.roster.is_revoked(peer, certificate_serial):
        record = identity.roster.removed(peer)
        name = record.name if record else "the device"
        msg = f"{name} was removed from the swarm and is refused. A new ticket (`ainet invite`) lets it join again."
        raise Refused(msg)
