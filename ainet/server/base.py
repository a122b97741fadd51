"""Common to all of the node's routes: authentication, limits, decoding, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from jupyter_server.base.handlers import APIHandler
from tornado import web
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamBufferFullError

from ainet.errors import AinetError, Busy, NotFound, Refused, TooLarge, UsageError
from ainet.server.served import Served

if TYPE_CHECKING:
    from jupyter_server.auth import IdentityProvider

#: Most bytes of a request's body: a prompt of a million characters fits.
MAX_BODY = 4 * 1024 * 1024
#: Up to here a body that is too large is read and dropped, so that its sender hears why; beyond, it is cut off.
MAX_DROPPED = 64 * 1024 * 1024

#: Bytes of an answer that may wait for whoever does not read them.
MAX_UNREAD = 32 * 1024 * 1024

#: The words for an error that nobody has foreseen.
MISTAKE = "The node made a mistake; its log says more (`ainet logs`)."


@web.stream_request_body
class NodeHandler(APIHandler):
    """Authentication, limits, decoding and errors of every route."""

    auth_resource = "ainet"

    def initialize(self) -> None:
        self.body = bytearray()
        self.received = 0

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
    def connection(self) -> HTTP1Connection:
        """The connection that the request came on."""
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)  # noqa: S101
        return connection

    async def prepare(self) -> None:  # type: ignore[override]
        """Authenticate before a single byte of the body is read, and limit how many there may be."""
        self.connection.set_max_body_size(MAX_DROPPED)
        await super().prepare()
        if self.current_user is None and self.request.method != "OPTIONS":
            raise web.HTTPError(403)

    def data_received(self, chunk: bytes) -> None:
        """Collect the body, as far as it may go."""
        self.received += len(chunk)
        if self.received <= MAX_BODY:
            self.body += chunk
        else:
            self.body.clear()

    def decode(self) -> dict[str, Any]:
        """Return the fields of the body; an empty body has none.

        Raises
        ------
        TooLarge
            The body exceeds `MAX_BODY`.
        UsageError
            The body is no JSON object.
        """
        if self.received > MAX_BODY:
            raise TooLarge(f"The request has {self.received} bytes; at most {MAX_BODY} are accepted.")
        try:
            return msgspec.json.decode(bytes(self.body) or b"{}", type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise UsageError(f"The request is not understood: {exc}.") from exc

    def query(self) -> dict[str, Any]:
        """Return the arguments of the query."""
        return {name: values[-1].decode(errors="replace") for name, values in self.request.arguments.items()}

    def push(self) -> None:
        """Send what was written, without waiting for whoever reads it; who has left too much unread is cut off."""
        self.connection.stream.max_write_buffer_size = MAX_UNREAD
        try:
            self.flush().add_done_callback(lambda sent: sent.cancelled() or sent.exception())
        except StreamBufferFullError:
            self.connection.stream.close()

    def fail(self, error: AinetError) -> None:
        self.set_status(error.status)
        if isinstance(error, Busy):
            self.set_header("Retry-After", str(max(1, round(float(error.details.get("retry_after", 1))))))
        self.finish(msgspec.json.encode(error.to_dict()))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer what tornado and Jupyter refuse in the same form."""
        exc_info = kwargs.get("exc_info")
        words = getattr(exc_info[1], "log_message", None) if exc_info else None
        if status_code in {401, 403}:
            error: AinetError = Refused(words or "The token is missing or wrong.")
        elif status_code == 404:
            error = NotFound(words or "There is nothing at this address.")
        elif status_code == 405:
            error = UsageError(f"{self.request.method} is not possible here.")
        elif status_code < 500:
            error = UsageError(words or self._reason)
        else:
            error = AinetError(MISTAKE)
        self.finish(msgspec.json.encode(error.to_dict()))
