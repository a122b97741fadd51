"""The frames of a peer link: msgpack, each after its length (4 bytes, big-endian).

`read_frame` is the one place where bytes from another device become objects: anything else is a `ProtocolError`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from ainet.errors import AinetError, ProtocolError
from ainet.identity.roster import Count, Name, NodeId, SignedRoster

if TYPE_CHECKING:
    from ainet.wire.stream import SecureStream

#: Versions of the protocol that this node speaks. Two nodes use the newest that both know.
PROTOCOL = 1
OLDEST_PROTOCOL = 1
MAX_FRAME = 4 * 1024 * 1024  # bytes
MAX_EARLY_FRAME = 16 * 1024  # bytes; before the other end is known to be a member
MAX_MESSAGE = 2000  # characters of an error
MAX_ADDRESS = 256  # characters
MAX_HINTS = 4096
MAX_PIECE = 64 * 1024  # bytes of a channel in one frame
#: Progress items that may be on their way to an asker who has not taken them yet.
WINDOW = 32
_LENGTH = struct.Struct(">I")

Address = Annotated[str, msgspec.Meta(max_length=MAX_ADDRESS)]
Addresses = Annotated[tuple[Address, ...], msgspec.Meta(max_length=16)]
CallId = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class Hint(msgspec.Struct, frozen=True, array_like=True):
    """The last known address of a member ("host:port", or a Jupyter server's URL), and its time. Unsigned.

    `seen` is in unix seconds.
    """

    id: NodeId
    address: Address
    seen: float


Hints = Annotated[tuple[Hint, ...], msgspec.Meta(max_length=MAX_HINTS)]


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The first frame of both ends: who speaks, and which roster it knows.

    Its fields stay as they are in every version of the protocol; further ones come last and have defaults.
    """

    #: The newest version that the speaker speaks.
    protocol: int
    id: NodeId
    name: Name
    #: The addresses on which the speaker accepts members, best first.
    addresses: Addresses
    #: Differs between two runs of the same node.
    instance: Annotated[str, msgspec.Meta(max_length=32)]
    roster_serial: Count
    roster_digest: Annotated[bytes, msgspec.Meta(max_length=32)]
    #: The oldest version that the speaker speaks.
    oldest: int = OLDEST_PROTOCOL
    #: The same for all nodes that share their loopback addresses with the speaker.
    machine: Annotated[str, msgspec.Meta(max_length=64)] = ""
    #: Since when this run of the speaker has been going on (unix seconds).
    started: float = 0.0


class RosterUpdate(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A roster that the other end may not know yet, and where its members listen."""

    roster: SignedRoster
    hints: Hints = ()


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The speaker accepts the other end; requests may follow."""

    hints: Hints = ()


class Goodbye(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The last frame: the speaker closes the link, and why."""

    code: Annotated[str, msgspec.Meta(max_length=32)]
    message: Annotated[str, msgspec.Meta(max_length=MAX_MESSAGE)]

    def to_error(self) -> AinetError:
        """Return the reason as an error."""
        return AinetError.from_dict({"code": self.code, "message": self.message})

    @classmethod
    def from_error(cls, error: AinetError) -> Goodbye:
        """Return the frame that gives `error` as the reason."""
        return cls(error.code, error.message[:MAX_MESSAGE])


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Answered by a `Pong` with the same stamp: the speaker's clock in microseconds."""

    stamp: Annotated[int, msgspec.Meta(ge=0, lt=2**62)] = 0


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The speaker is alive, and has seen the `Ping` with this stamp."""

    stamp: Annotated[int, msgspec.Meta(ge=0, lt=2**62)] = 0


class Call(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """A request: the name of its class, and its fields."""

    id: CallId
    kind: Annotated[str, msgspec.Meta(max_length=64)]
    body: msgspec.Raw


class Item(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Progress of a call."""

    id: CallId
    body: msgspec.Raw


class Reply(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """The answer that ends a call."""

    id: CallId
    body: msgspec.Raw


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """The error that ends a call, as `AinetError.to_dict` gives it."""

    id: CallId
    error: dict[str, Any]


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """The asker no longer wants the answer."""

    id: CallId


class Credit(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """The asker took `count` items: as many more may be sent."""

    id: CallId
    count: Annotated[int, msgspec.Meta(ge=1, le=WINDOW)]


class ToPort(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A channel that leads to a TCP port which the other node exposes to members."""

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class ToNode(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A channel that the other node is to pass on to a third member, for a link to that one."""

    node: NodeId


class ToLink(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A channel on which a third member, as the relay says, wants to be linked; it proves itself inside."""

    origin: NodeId


Target = ToPort | ToNode | ToLink


class OpenChannel(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Begin a channel; its number is random."""

    id: CallId
    target: Target


class ChannelData(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """The bytes of a channel from `offset` on."""

    id: CallId
    offset: Count
    data: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_PIECE)]


class ChannelAck(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """The bytes of a channel before `offset` were taken; the end counts as one byte more."""

    id: CallId
    offset: Count


class ChannelEnd(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """A channel has `offset` bytes in this direction, and no more."""

    id: CallId
    offset: Count


class ChannelResume(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """The bytes of a channel before `offset` came: go on from there, on this link."""

    id: CallId
    offset: Count


class ChannelReset(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """A channel is closed at once, and why."""

    id: CallId
    code: Annotated[str, msgspec.Meta(max_length=32)]
    message: Annotated[str, msgspec.Meta(max_length=MAX_MESSAGE)]

    def to_error(self) -> AinetError:
        """Return the reason as an error."""
        return AinetError.from_dict({"code": self.code, "message": self.message})

    @classmethod
    def from_error(cls, number: int, error: AinetError) -> ChannelReset:
        """Return the frame that gives `error` as the reason."""
        return cls(number, error.code, error.message[:MAX_MESSAGE])


ChannelFrame = OpenChannel | ChannelData | ChannelAck | ChannelEnd | ChannelResume | ChannelReset


class PairingHello(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """The inviting device's first frame to a joiner: its swarm's CA certificate (DER)."""

    protocol: int
    ca: Annotated[bytes, msgspec.Meta(max_length=8192)]


class JoinRequest(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """A joiner's request, an encoded `JoinBody`, and the proof that it knows the ticket's secret."""

    body: Annotated[bytes, msgspec.Meta(max_length=8192)]
    proof: Annotated[bytes, msgspec.Meta(max_length=32)]


class Admitted(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """The answer to a joiner: the fields of its `Admission`, and where the members listen."""

    certificate: Annotated[bytes, msgspec.Meta(max_length=8192)]
    ca: Annotated[bytes, msgspec.Meta(max_length=8192)]
    owner: Annotated[bytes, msgspec.Meta(max_length=32)]
    statement: Annotated[bytes, msgspec.Meta(max_length=64)]
    roster: SignedRoster
    hints: Hints = ()


class Introduce(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """A request to become contacts: an encoded `Card`, the proof of the ticket's secret, the device key's signature."""

    card: Annotated[bytes, msgspec.Meta(max_length=16 * 1024)]
    proof: Annotated[bytes, msgspec.Meta(max_length=32)]
    signature: Annotated[bytes, msgspec.Meta(max_length=64)]


class Introduced(msgspec.Struct, frozen=True, array_like=True, tag=24):
    """The answer: the introducing device's name, its swarm's CA certificate (DER), and where it listens."""

    name: Name
    ca: Annotated[bytes, msgspec.Meta(max_length=8192)]
    addresses: Addresses


Frame = (
    Hello
    | RosterUpdate
    | Welcome
    | Goodbye
    | Ping
    | Pong
    | Call
    | Item
    | Reply
    | Failure
    | Cancel
    | Credit
    | OpenChannel
    | ChannelData
    | ChannelAck
    | ChannelEnd
    | ChannelResume
    | ChannelReset
    | PairingHello
    | JoinRequest
    | Admitted
    | Introduce
    | Introduced
)
F = TypeVar("F", bound=msgspec.Struct)


def encode_frame(frame: Frame) -> bytes:
    """Return the frame with its length before it; raises `ProtocolError` when it is too large."""
    buffer = bytearray(_LENGTH.size)
    _ENCODER.encode_into(frame, buffer, _LENGTH.size)
    length = len(buffer) - _LENGTH.size
    if length > MAX_FRAME:
        raise ProtocolError(f"A message of {length:,} bytes is too large for a peer link, which takes {MAX_FRAME:,}.")
    _LENGTH.pack_into(buffer, 0, length)
    return bytes(buffer)


def decode_frame(body: bytes | bytearray) -> Frame:
    """Return the frame in `body` (without its length); raises `ProtocolError` when it is none."""
    try:
        return _DECODER.decode(body)
    # Deep nesting is a RecursionError; text that is not UTF-8 is a UnicodeDecodeError, which is a ValueError.
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"The other device sent something that is no message ({exc}).") from exc


async def read_frame(stream: SecureStream, limit: int = MAX_FRAME) -> Frame:
    """Return the next frame of at most `limit` bytes.

    Raises
    ------
    ProtocolError
        The bytes are no frame, or it is longer.
    PeerUnreachable
        The stream ended.
    """
    (length,) = _LENGTH.unpack(await stream.read_exactly(_LENGTH.size))
    if length > limit:
        raise ProtocolError(f"The other device announced a message of {length:,} bytes; {limit:,} are allowed here.")
    return decode_frame(await stream.read_exactly(length))


async def expect(stream: SecureStream, kind: type[F], limit: int = MAX_FRAME) -> F:
    """Return the next frame, which must be a `kind`; a `Goodbye` is raised as the error that it carries."""
    frame = await read_frame(stream, limit)
    if isinstance(frame, kind):
        return frame
    if isinstance(frame, Goodbye):
        raise frame.to_error()
    raise ProtocolError(f"The other device sent {type(frame).__name__} where {kind.__name__} was expected.")


_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)
