"""Links through a Jupyter server's port: a WebSocket as carrier, where no other port can be reached."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError, WebSocketError, websocket_connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tornado.websocket import WebSocketProtocol13

#: Route of the Jupyter server, below its base URL.
ROUTE = "ainet/peer"
#: Bytes of one message: a TLS record.
MAX_MESSAGE = 16 * 1024
#: A writer that is further ahead of the connection (bytes) waits.
HIGH_WATER = 256 * 1024
CLOSE_TIMEOUT = 1.0  # seconds


class WebSocketCarrier:
    """A WebSocket as carrier; the other end's messages need not end where ours do.

    Parameters
    ----------
    protocol
        Tornado's end of the connection.
    receive
        Returns the next message, None at the end.
    end
        Begins the closing handshake.
    """

    local_host = ""

    def __init__(
        self,
        protocol: WebSocketProtocol13,
        receive: Callable[[], Awaitable[str | bytes | None]],
        end: Callable[[], None],
    ) -> None:
        self._protocol = protocol
        self._receive = receive
        self._end = end
        self._pending = 0
        self._drained = asyncio.Event()
        self._drained.set()
        self._ended = False
        self._drained_out = False  # whether the end of what came in was seen

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return self._pending

    async def read(self) -> bytes:
        """Return the next message; none at the end."""
        message = b"" if self._ended else await self._receive()
        if isinstance(message, bytes) and message:
            return message
        self._ended = True  # also for what no carrier sends: text, or nothing
        self._drained_out = message is None
        return b""

    def write(self, data: bytes) -> None:
        """Send `data` in messages of at most `MAX_MESSAGE` bytes."""
        for begin in range(0, len(data), MAX_MESSAGE):
            piece = data[begin : begin + MAX_MESSAGE]
            try:
                sent = self._protocol.write_message(piece, binary=True)
            except WebSocketError:
                self._ended = True  # whoever reads hears of it
                return
            self._pending += len(piece)
            sent.add_done_callback(functools.partial(self._sent, len(piece)))
        if self._pending > HIGH_WATER:
            self._drained.clear()

    async def drain(self) -> None:
        """Wait until no more than `HIGH_WATER` bytes are waiting."""
        await self._drained.wait()

    def write_eof(self) -> None:
        """Close in an orderly way."""
        self._end()

    async def close(self) -> None:
        """Close in an orderly way."""
        self._end()

    def cut(self) -> None:
        self._ended = True
        self._end()
        self._protocol.stream.close()
        self._drained.set()

    async def wait_closed(self) -> None:
        """Take what was not read any more, so that nobody waits for its being read."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                while not self._drained_out:
                    self._drained_out = await self._receive() is None

    def _sent(self, size: int, done: asyncio.Future[None]) -> None:
        self._pending -= size
        if not done.cancelled():
            done.exception()  # a broken connection is noticed by whoever reads
        if self._pending <= HIGH_WATER:
            self._drained.set()


async def connect(address: str) -> WebSocketCarrier:
    """Connect to the node of the Jupyter server at this address (``https://host/base/``).

    Raises
    ------
    OSError
        With the reason in words.
    """
    parts = urlsplit(address)
    scheme = "wss" if parts.scheme == "https" else "ws"
    url = f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/{ROUTE}"
    # None of them is an OSError: a name that does not resolve and a port that is closed are.
    try:
        connection = await websocket_connect(HTTPRequest(url), max_message_size=MAX_MESSAGE)
    except HTTPClientError as exc:
        raise ConnectionRefusedError(f"no node answers behind that Jupyter server (HTTP status {exc.code})") from exc
    except (WebSocketError, WebSocketClosedError, StreamClosedError, ValueError) as exc:
        raise ConnectionRefusedError(f"that is no Jupyter server with ainet ({exc})") from exc
    return WebSocketCarrier(cast("WebSocketProtocol13", connection.protocol), connection.read_message, connection.close)
