"""What is signed between two devices: written in one way, and tied to these devices and to their swarms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

import msgspec

from ainet.errors import ProtocolError

if TYPE_CHECKING:
    from msgspec.msgpack import Decoder

T = TypeVar("T", bound=msgspec.Struct)
SESSION_BYTES = 16

RawKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
SessionId = Annotated[bytes, msgspec.Meta(min_length=SESSION_BYTES, max_length=SESSION_BYTES)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Time = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]


class Parties(NamedTuple):
    """Who pays and who is paid: raw public keys, and what identifies the swarms of both.

    The swarms are part of what is signed, but do not travel: both sides know them.
    """

    payer: bytes
    payee: bytes
    payer_swarm: bytes
    payee_swarm: bytes

    @property
    def reversed(self) -> Parties:
        """The same devices the other way round."""
        return Parties(self.payee, self.payer, self.payee_swarm, self.payer_swarm)

    def message(self, domain: bytes, encoded: bytes) -> bytes:
        """Return the bytes that are signed."""
        return b"".join((domain, self.payer_swarm, self.payee_swarm, encoded))


def decoded(encoded: bytes, decoder: Decoder[T], what: str) -> T:
    """Return a message that was written in the one way in which such messages are; raises `ProtocolError`.

    Parameters
    ----------
    what
        What people call it.
    """
    try:
        found = decoder.decode(encoded)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"A {what} cannot be read ({exc}).") from exc
    if msgspec.msgpack.encode(found) != encoded:
        raise ProtocolError(f"A {what} is not written in the one way in which {what}s are.")
    return found
