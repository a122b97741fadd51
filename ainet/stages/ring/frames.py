"""The data path between two stages: fixed binary frames over a blocking TLS socket.

A frame is a header of 8 bytes, a table of segments (whose rows they are) and the rows: hidden states in the form that
the placement names (see `hidden_states`), tokens as little-endian int32. Each direction of a pipeline's ring has a
connection of its own, owned by the decode thread of the stage at its end, so no lock and no event loop lies between a
stage's output and the next stage's input.
"""

from __future__ import annotations

import contextlib
import enum
import hmac
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from ainet.errors import AinetError, PeerUnreachable, ProtocolError, Refused
from ainet.identity.credentials import client_context, peer_id, server_context
from ainet.stages.protocol.segments import SEGMENT_BYTES, pack, unpack
from ainet.stages.protocol.sockets import tune
from ainet.stages.ring.overflow import Overflow
from ainet.timing import TIMING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ainet.identity.credentials import Credentials
    from ainet.stages.protocol.segments import Segment

HEADER = struct.Struct("<BxHI")  # kind, segments, bytes after the header
TOKENS = np.dtype("<i4")
MAX_GREETINGS = 20
PLAIN_WORD = b"This port speaks TLS 1.3 and is for the stages of a pipeline only.\n"
TLS_HANDSHAKE = b"\x16"  # the type of the record that TLS begins with


class Kind(enum.IntEnum):
    """The kind of a frame."""

    HELLO = 1  # the pipeline's epoch: fences out stages of an older placement
    PROMPT = 2  # tokens to process from `position` on, with logits at the end if there is an output
    TOKENS = 3  # a micro-batch has gone through every stage: what each of its sessions processes next, if anything
    HIDDEN = 4  # a micro-batch: the output of the stage before
    RELEASE = 5  # sessions ended: forget them
    ERROR = 7  # the pipeline failed; a msgpack error
    ALIVE = 8  # nothing but a sign of life
    REPLAY = 9  # tokens that were generated before, to process `outputs` at once, without logits
    KEEP = 10  # copy what is known of a session, under the number in `position`
    RESTORE = 11  # begin a session with the first `rows` tokens of the copy with the number in `position`
    FORGET = 12  # drop the copies with the numbers in `position`
    CLEAR = 13  # forget every session: none runs
    BEGIN = 14  # a session begins; `position` and `rows` are its key
    AGAIN = 15  # bring stages that are new up to the first `position` positions of a session
    KNOWN = 16  # a part of a session that only stages that are new do not know yet, as the stage before sent it once


class Frame(NamedTuple):
    """One received frame; `payload` is valid until the next one."""

    kind: Kind
    segments: list[Segment]
    payload: memoryview

    @property
    def rows(self) -> int:
        """Rows of all segments."""
        return sum(segment.rows for segment in self.segments)

    def tokens(self) -> NDArray[np.int32]:
        """Return the payload as tokens, int32 of shape (rows,)."""
        self.check(TOKENS.itemsize)
        return np.frombuffer(self.payload, TOKENS)

    def error(self) -> AinetError:
        """Return the error that the frame carries."""
        try:
            return AinetError.from_dict(msgspec.msgpack.decode(self.payload))
        except msgspec.MsgspecError as exc:
            raise ProtocolError("A stage sent an error that cannot be read.") from exc

    def check(self, row_bytes: int) -> None:
        """Raise `ProtocolError` unless the payload has this many bytes for each row."""
        if len(self.payload) != row_bytes * self.rows:
            raise ProtocolError(f"A {self.kind.name} frame of {self.rows} rows has {len(self.payload)} bytes.")


class RingConnection:
    """One direction of the ring: only ever sent to at one end and received from at the other.

    One thread receives. Several may send: the decode thread, and the one that gives signs of life.

    A stage was idle until a frame arrives, so its code is not in the processor's caches; what handles a token is short.
    """

    def __init__(self, sock: ssl.SSLSocket, max_payload: int) -> None:
        self.socket = sock
        try:
            self.peer = peer_id(sock)
        except Refused:
            sock.close()
            raise
        self.bytes_sent = self.frames_sent = 0
        self._max_payload = max_payload
        self._arrivals = arrivals(sock)
        # Each link is used in one direction, so only one of them grows.
        self._received = bytearray(HEADER.size)
        self._start = self._end = 0  # of what was received and not yet returned
        self._sending = bytearray(HEADER.size)
        self._lock = threading.Lock()
        #: Whether something was sent since this was last set to False.
        self.has_sent = False
        self._overflow: Overflow | None = None

    def within(self, seconds: float) -> RingConnection:
        """Have each part of a frame come within this time, once a frame has begun; returns the connection.

        Whoever sends it may stop in the middle of one: what has come so far is then no sign of life any more.
        """
        self.socket.settimeout(seconds)
        return self

    def unblock(self) -> None:
        """Let `send` never wait from now on."""
        self._overflow = Overflow(self.socket)

    def send(self, kind: Kind, segments: Sequence[Segment] = (), payload: bytes | memoryview = b"") -> None:
        """Send one frame. Raises OSError when the connection is gone."""
        table = pack(segments)
        begin = HEADER.size + len(table)
        size = begin + len(payload)
        with self._lock:
            if len(self._sending) < size:
                self._sending = bytearray(size)
            HEADER.pack_into(self._sending, 0, kind, len(segments), size - HEADER.size)
            frame = memoryview(self._sending)[:size]
            frame[HEADER.size : begin] = table
            frame[begin:] = payload
            if self._overflow is None:
                self.socket.sendall(frame)
            else:
                self._overflow.send(frame)
        self.has_sent = True
        self.bytes_sent += size
        self.frames_sent += 1

    def send_tokens(self, kind: Kind, segments: Sequence[Segment], tokens: NDArray[np.int32]) -> None:
        """Send the tokens of the segments, int32 of shape (n,)."""
        self.send(kind, segments, tokens.astype(TOKENS, copy=False).tobytes())

    def receive(self) -> Frame:
        """Receive one frame, whose payload is valid until the next call.

        Raises
        ------
        OSError
            The connection is gone.
        ProtocolError
            The bytes are no frame.
        """
        self._fill(HEADER.size)
        kind, n_segments, length = HEADER.unpack_from(self._received, self._start)
        if length > self._max_payload:
            raise ProtocolError(f"A stage sent a frame of {length} bytes; at most {self._max_payload} are allowed.")
        table = SEGMENT_BYTES * n_segments
        if table > length:
            raise ProtocolError(f"A stage sent a frame of {length} bytes with {n_segments} segments.")
        size = HEADER.size + length
        self._fill(size)
        body = memoryview(self._received)[self._start + HEADER.size : self._start + size]
        self._start += size
        try:
            return Frame(Kind(kind), unpack(body[:table]), body[table:])
        except ValueError as exc:
            raise ProtocolError(f"A stage sent a frame of unknown kind {kind}.") from exc

    @property
    def buffered(self) -> bool:
        """Whether at least a part of a frame was read from the socket already."""
        return self._end > self._start or self.socket.pending() > 0

    def readable(self) -> bool:
        """Whether at least a part of a frame has arrived."""
        return self.buffered or bool(self._arrivals.poll(0))

    def close(self) -> None:
        """Close the connection, also while another thread waits on it."""
        with contextlib.suppress(OSError):  # it may be closed at the other end already
            # Not the method of SSLSocket, after which another thread that is still sending would do so without TLS.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)
        if self._overflow is not None:
            self._overflow.close()
        self.socket.close()

    def _fill(self, size: int) -> None:
        """Read until `size` bytes are there, and whatever comes with them."""
        if self._start == self._end:
            self._start = self._end = 0
        if len(self._received) - self._start < size:
            begun = self._received[self._start : self._end]
            self._received = begun + bytearray(size - len(begun))
            self._start, self._end = 0, len(begun)
        while self._end - self._start < size:
            n = self.socket.recv_into(memoryview(self._received)[self._end :])
            if n == 0:
                raise ConnectionResetError("the connection was closed")
            self._end += n


class RingListener:
    """Accepts the one connection that the stage before makes, and refuses everybody else.

    Parameters
    ----------
    credentials
        This device's certificate, key and CA.
    host
        Address to listen on.
    log
        Told about every refused connection.
    """

    def __init__(self, credentials: Credentials, host: str, log: Callable[[str], None]) -> None:
        self._context = server_context(credentials)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family, backlog=8)
        self.port = int(self._socket.getsockname()[1])
        self._log = log

    def accept(self, expected_id: str, epoch: bytes, max_payload: int) -> RingConnection:
        """Wait for the stage on the node `expected_id` that knows `epoch`, then stop listening.

        Raises
        ------
        PeerUnreachable
            If it does not come in time.
        """
        left = TIMING.ring_dial
        for _ in range(MAX_GREETINGS):
            begun = time.monotonic()
            self._socket.settimeout(max(left, 0.001))
            try:
                raw, address = self._socket.accept()
            except OSError:
                break
            left -= time.monotonic() - begun  # the time of those who do not belong here costs the others nothing
            try:
                link = self._greet(raw, expected_id, epoch, max_payload)
            except (OSError, AinetError) as exc:
                raw.close()
                self._log(f"Refused a stage's connection from {address[0]}: {exc}")
                continue
            self.close()
            return link
        raise PeerUnreachable(f"The stage before this one did not connect within {TIMING.ring_dial:.0f} s.")

    def close(self) -> None:
        self._socket.close()

    def _greet(self, raw: socket.socket, expected_id: str, epoch: bytes, max_payload: int) -> RingConnection:
        raw.settimeout(TIMING.ring_greeting)
        tune(raw)
        if raw.recv(1, socket.MSG_PEEK) != TLS_HANDSHAKE:
            _turn_away(raw)
            raise Refused("it does not speak TLS")
        link = RingConnection(self._context.wrap_socket(raw, server_side=True), max_payload)
        try:
            if link.peer != expected_id:
                raise Refused(f"the certificate belongs to {link.peer[:8]}, not to {expected_id[:8]}")
            hello = link.receive()
            if hello.kind != Kind.HELLO or not hmac.compare_digest(hello.payload, epoch):
                raise Refused("it belongs to another placement of the model")
            link.socket.settimeout(None)
        except BaseException:
            link.close()
            raise
        return link


def _turn_away(raw: socket.socket) -> None:
    """Tell a client without TLS what this port is; it is closed afterwards."""
    raw.sendall(PLAIN_WORD)
    raw.shutdown(socket.SHUT_WR)
    # Closing with unread bytes would reset the connection and destroy the word.
    for _ in range(4):
        if not raw.recv(65536):
            break


def connect(
    credentials: Credentials, address: tuple[str, int], expected_id: str, epoch: bytes, max_payload: int
) -> RingConnection:
    """Connect to the stage after this one, on the node `expected_id`.

    Raises
    ------
    PeerUnreachable
        If nobody answers there.
    Refused
        If another node answers.
    """
    link = None
    try:
        raw = socket.create_connection(address, timeout=TIMING.ring_dial)
        tune(raw)
        link = RingConnection(client_context(credentials).wrap_socket(raw), max_payload)
        if link.peer == expected_id:
            link.send(Kind.HELLO, payload=epoch)
            link.socket.settimeout(None)
            return link
    except OSError as exc:
        if link is not None:
            link.close()
        raise PeerUnreachable(f"The next stage at {address[0]}:{address[1]} cannot be reached: {exc}") from exc
    link.close()
    raise Refused(f"Another device ({link.peer[:8]}) answers at {address[0]}:{address[1]}.")


def arrivals(*sockets: socket.socket) -> select.poll:
    """Return a poll that answers which of `sockets` have something to read."""
    poll = select.poll()
    for sock in sockets:
        poll.register(sock, select.POLLIN)
    return poll
