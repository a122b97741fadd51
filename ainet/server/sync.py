"""Shared documents for Yjs clients: the y-websocket protocol, as its own JavaScript client speaks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from pycrdt import YMessageType, YSyncMessageType, create_sync_message, create_update_message
from pycrdt import read_message as read_payload
from pycrdt import write_message as write_payload
from tornado import web
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from ainet.client.document_copy import ENDED
from ainet.errors import AinetError
from ainet.server.served import Served

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_server.auth import IdentityProvider

    from ainet.documents.document import Document

MAX_MESSAGE = 16 * 1024 * 1024  # bytes
MAX_BACKLOG = 32 * 1024 * 1024  # bytes that a client may leave unread
CLOSE_REFUSED = 1008  # RFC 6455: a message violates the endpoint's policy


class SyncHandler(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """One client of one shared document."""

    auth_resource = "ainet"
    #: y-websocket's client in a browser cannot set headers.
    takes_token_from_query = True

    def initialize(self) -> None:
        self._document: Document | None = None
        self._unwatch: Callable[[], None] = lambda: None
        self._backlog = 0

    @property
    def served(self) -> Served:
        """The node that this server serves."""
        return Served.of(self.settings)

    @property
    def identity_provider(self) -> IdentityProvider:
        """The node's own for requests with its token, the Jupyter server's for all others."""
        own = self.served.identity
        return own if own.accepts(self) else super().identity_provider

    @property
    def max_message_size(self) -> int:
        """Bytes of one message."""
        return MAX_MESSAGE

    def set_default_headers(self) -> None:
        """Set none: a WebSocket has no page to protect."""

    @ws_authenticated
    @authorized
    async def get(self, name: str) -> None:
        """Upgrade the connection, if the document can be opened."""
        try:
            self._document = self.served.running_node().documents.open(name)
        except AinetError as error:
            raise web.HTTPError(error.status, error.message) from error
        await super().get(name)

    def open(self, *_arguments: str, **_options: str) -> None:
        """Tell the client what this side has seen; it answers with what is missing here."""
        assert self._document is not None  # noqa: S101 - `get` has set it
        super().open()
        documents = self.served.running_node().documents
        self._unwatch = documents.watch(self._document.name, self._changed, self._ended)
        self.send(create_sync_message(self._document.doc))
        self.served.rooms.enter(self._document.name, self)

    async def on_message(self, message: str | bytes) -> None:
        """Act on a message of the client; what is no message ends the connection."""
        document = self._document
        if document is None or not isinstance(message, bytes) or len(message) < 2:
            self.close(CLOSE_REFUSED, "That is no message of the y-websocket protocol.")
            return
        try:
            if message[0] == YMessageType.SYNC:
                self._sync(document, YSyncMessageType(message[1]), read_payload(message[2:]))
            elif message[0] == YMessageType.AWARENESS:
                self.served.rooms.broadcast(document.name, message, self)
        except AinetError as exc:
            self.close(CLOSE_REFUSED, exc.message[:120])
        except (ValueError, IndexError, RuntimeError):
            self.close(CLOSE_REFUSED, "That is no message of the y-websocket protocol.")

    def on_close(self) -> None:
        super().on_close()
        self._unwatch()
        if self._document is not None:
            self.served.rooms.leave(self._document.name, self)

    def send(self, message: bytes) -> None:
        """Send a message of the protocol, soon."""
        if self._backlog > MAX_BACKLOG:
            self.close(CLOSE_REFUSED, "You do not read what you asked for.")
            return
        try:
            sent = self.write_message(message, binary=True)
        except WebSocketClosedError:
            return
        self._backlog += len(message)

        def done(future: object) -> None:
            self._backlog -= len(message)
            sent.exception()  # a broken connection is noticed by `on_close`

        sent.add_done_callback(done)

    def _sync(self, document: Document, kind: YSyncMessageType, payload: bytes) -> None:
        if kind == YSyncMessageType.SYNC_STEP1:
            update = document.missing(payload)
            self.send(bytes([YMessageType.SYNC, YSyncMessageType.SYNC_STEP2]) + write_payload(update))
        else:
            document.apply(payload, self)
            document.compact_if_due()

    def _ended(self) -> None:
        if self._document is not None:
            self.served.rooms.leave(self._document.name, self)
        self._document = None  # nothing more of it is taken
        self.close(ENDED, "This device does not have the document any more.")

    def _changed(self, update: bytes, origin: object) -> None:
        if origin is not self:
            self.send(create_update_message(update))
