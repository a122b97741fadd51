"""The door for other devices where only the Jupyter server's port can be reached.

The one route without a login: whoever comes in must prove itself inside, by the certificates of a link.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from jupyter_server.auth.decorator import allow_unauthenticated
from tornado.websocket import WebSocketHandler

from ainet.server.served import Served
from ainet.wire.websocket import MAX_MESSAGE, WebSocketCarrier

if TYPE_CHECKING:
    from tornado.websocket import WebSocketProtocol13

#: Messages that may wait to be read.
UNREAD = 4


class PeerHandler(WebSocketHandler):
    """A WebSocket that carries a peer link."""

    def initialize(self) -> None:
        self._messages: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(UNREAD)

    @property
    def max_message_size(self) -> int:
        """Bytes of one message."""
        return MAX_MESSAGE

    @allow_unauthenticated
    async def get(self, *arguments: str, **options: str) -> None:
        """Upgrade the connection, if a node runs here and not too many wait to prove themselves."""
        node = Served.of(self.settings).node
        if node is None or not node.links.door.may_greet:
            self.set_status(503)
            self.finish("No node answers here at the moment. Try again in a minute.\n")
            return
        await super().get(*arguments, **options)

    def open(self, *_arguments: str, **_options: str) -> None:
        """Hand the connection to the node."""
        node = Served.of(self.settings).node
        if node is None or self.ws_connection is None:
            self.close()
            return
        carrier = WebSocketCarrier(cast("WebSocketProtocol13", self.ws_connection), self._receive, self.close)
        node.links.door.accept(carrier, self.request.remote_ip or "somewhere")

    async def on_message(self, message: str | bytes) -> None:
        """Keep a message until it is read; while too many wait, no more are taken from the network."""
        await self._room.acquire()
        self._messages.put_nowait(message)

    def on_close(self) -> None:
        """Tell whoever reads."""
        self._messages.put_nowait(None)

    async def _receive(self) -> str | bytes | None:
        message = await self._messages.get()
        self._room.release()
        return message
