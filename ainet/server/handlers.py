"""The node's HTTP routes: JSON in, JSON or lines of JSON out.

Handlers know nothing but `Node`. Errors are `AinetError.to_dict()` with the error's status.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import unquote

import msgspec
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado import web
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from ainet.errors import AinetError, Busy, NotFound, Refused, UsageError
from ainet.executor.request import GenerateRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from jupyter_server.auth import IdentityProvider

    from ainet.node import Node
    from ainet.server.extension import AinetExtension

#: Most bytes of a request's body: a prompt of a million characters fits.
MAX_BODY = 4 * 1024 * 1024
#: Up to here a body that is too large is read and dropped, so that its sender hears why; beyond, it is cut off.
MAX_DROPPED = 64 * 1024 * 1024

T = TypeVar("T")
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1024)]


class TooLarge(AinetError):
    """The body of a request exceeds the limit."""

    code = "too-large"
    status = 413


@web.stream_request_body
class NodeHandler(APIHandler):
    """Authentication, limits, decoding and errors of every route."""

    auth_resource = "ainet"

    def initialize(self) -> None:
        """Start with an empty body."""
        self.body = bytearray()
        self.received = 0

    @property
    def extension(self) -> AinetExtension:
        """The extension that this server runs."""
        return self.settings["ainet"]

    @property
    def identity_provider(self) -> IdentityProvider:
        """The node's own for requests with its token, the Jupyter server's for all others."""
        own = self.extension.identity
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

    def decode(self, kind: type[T]) -> T:
        """Return the body as a `kind`; an empty body is an empty object.

        Raises
        ------
        TooLarge
            The body exceeds `MAX_BODY`.
        UsageError
            The body is not JSON, or not that of a `kind`.
        """
        if self.received > MAX_BODY:
            msg = f"The request has {self.received} bytes; at most {MAX_BODY} are accepted."
            raise TooLarge(msg)
        try:
            return msgspec.json.decode(bytes(self.body) or b"{}", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            msg = f"The request is not understood: {exc}."
            raise UsageError(msg) from exc

    def query(self, kind: type[T]) -> T:
        """Return the query's arguments as a `kind`."""
        arguments = {name: values[-1].decode(errors="replace") for name, values in self.request.arguments.items()}
        try:
            return msgspec.convert(arguments, type=kind, strict=False)
        except msgspec.ValidationError as exc:
            msg = f"The request is not understood: {exc}."
            raise UsageError(msg) from exc

    async def answer(self, call: Callable[[Node], Awaitable[Any]]) -> None:
        """Answer with what `call` makes of the node."""
        try:
            result = await call(self.extension.running_node())
        except AinetError as error:
            self.fail(error)
        else:
            self.finish(msgspec.json.encode(result))

    def fail(self, error: AinetError) -> None:
        """Answer with `error`."""
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
            error = AinetError("The node made a mistake; its log says more (`ainet logs`).")
        self.finish(msgspec.json.encode(error.to_dict()))


class StatusHandler(NodeHandler):
    """The node, its members and pipelines at a glance."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with `Node.status` and the address of this server."""

        async def status(node: Node) -> dict[str, Any]:
            found = await node.status()
            found["node"]["url"] = self.extension.url
            return found

        await self.answer(status)


class ModelsHandler(NodeHandler):
    """The models that this node can use."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with `Node.models`."""
        await self.answer(lambda node: node.models())


class PlanQuery(msgspec.Struct, forbid_unknown_fields=True):
    """What to plan for."""

    model: Text | None = None
    stages: Count | None = None


class PlanHandler(NodeHandler):
    """Which layers would go where, and why."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with `Node.plan`."""

        async def plan(node: Node) -> dict[str, Any]:
            wanted = self.query(PlanQuery)
            return await node.plan(wanted.model, wanted.stages)

        await self.answer(plan)


class GenerateHandler(NodeHandler):
    """One generation, streamed as lines of JSON; it ends when the connection does."""

    def initialize(self) -> None:
        """Start without a stream."""
        super().initialize()
        self._sending: asyncio.Task[None] | None = None

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Stream the events of `Node.generate`; an error before the first event has its own status."""
        try:
            request = self.decode(GenerateRequest)
            events = self.extension.running_node().generate(request)
        except AinetError as error:
            self.fail(error)
            return
        # Small writes must leave at once: the next token may be long in coming.
        self.connection.stream.set_nodelay(True)
        self._sending = asyncio.create_task(self._send(events))
        with contextlib.suppress(asyncio.CancelledError, StreamClosedError):
            await self._sending

    async def _send(self, events: AsyncGenerator[dict[str, Any], None]) -> None:
        self.set_header("X-Accel-Buffering", "no")
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    await self._write_line(event)
        except (StreamClosedError, asyncio.CancelledError):
            raise
        except Exception as exc:
            if not self._headers_written:
                if not isinstance(exc, AinetError):
                    raise
                self.fail(exc)
                return
            if not isinstance(exc, AinetError):
                self.log.exception("A generation failed.")
                exc = AinetError("The node made a mistake; its log says more (`ainet logs`).")
            await self._write_line({"event": "error", "error": exc.to_dict()})
        self.finish(set_content_type="application/x-ndjson")

    async def _write_line(self, event: dict[str, Any]) -> None:
        if not self._headers_written:
            self.set_header("Content-Type", "application/x-ndjson")
        self.write(msgspec.json.encode(event) + b"\n")
        await self.flush()

    def on_connection_close(self) -> None:
        """Cancel the generation: nobody listens any more."""
        super().on_connection_close()
        if self._sending is not None:
            self._sending.cancel()


class PipelinesHandler(NodeHandler):
    """The loaded models."""

    @web.authenticated
    @authorized
    async def delete(self, model: str | None = None) -> None:
        """Unload `model`, or everything."""

        async def unload(node: Node) -> dict[str, Any]:
            return {"unloaded": await node.unload(unquote(model) if model else None)}

        await self.answer(unload)


class Invitation(msgspec.Struct, forbid_unknown_fields=True):
    """Where to wait for the joining device (host or host:port), and for how long."""

    listen: Text | None = None
    minutes: Annotated[float, msgspec.Meta(gt=0, le=1440)] = 10.0


class InvitationsHandler(NodeHandler):
    """Tickets for further devices."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer with a new ticket."""

        async def invite(node: Node) -> dict[str, Any]:
            wanted = self.decode(Invitation)
            return await node.invite(wanted.listen, wanted.minutes)

        await self.answer(invite)


class Membership(msgspec.Struct, forbid_unknown_fields=True):
    """A ticket, and the name that this device wants to have in the swarm."""

    ticket: Text
    name: Text | None = None


class MembershipHandler(NodeHandler):
    """The place of this device in a swarm."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Join the swarm that a ticket is for."""

        async def join(node: Node) -> dict[str, Any]:
            wanted = self.decode(Membership)
            return await node.join(wanted.ticket, wanted.name)

        await self.answer(join)


class MembersHandler(NodeHandler):
    """The members of the swarm."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with `Node.members`."""
        await self.answer(lambda node: node.members())


class MemberHandler(NodeHandler):
    """One member."""

    @web.authenticated
    @authorized
    async def delete(self, name: str) -> None:
        """Remove the member from the swarm."""
        await self.answer(lambda node: node.remove(unquote(name)))


class KeyExport(msgspec.Struct, forbid_unknown_fields=True):
    """What the swarm's key is encrypted with."""

    passphrase: Text


class KeyExportHandler(NodeHandler):
    """The swarm's key, for a second device that may issue certificates."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer with the encrypted key."""

        async def export(node: Node) -> dict[str, str]:
            return {"key": await node.export_key(self.decode(KeyExport).passphrase)}

        await self.answer(export)


class KeyImport(msgspec.Struct, forbid_unknown_fields=True):
    """An exported key and what it is encrypted with."""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=65536)]
    passphrase: Text


class KeyImportHandler(NodeHandler):
    """The swarm's key, from another device."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Take over the key."""

        async def take(node: Node) -> dict[str, Any]:
            wanted = self.decode(KeyImport)
            return await node.import_key(wanted.key, wanted.passphrase)

        await self.answer(take)


class ClientRequest(msgspec.Struct, forbid_unknown_fields=True):
    """How many lent workers are wanted; None: all that members lend."""

    workers: Count | None = None


class ClientsHandler(NodeHandler):
    """Dask clusters for the user's own code, made of workers that members lend."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Start a scheduler on this device and answer with its address and TLS files."""
        await self.answer(lambda node: node.open_client(self.decode(ClientRequest).workers))


class ClientHandler(NodeHandler):
    """One such cluster."""

    @web.authenticated
    @authorized
    async def delete(self, client: str) -> None:
        """End it and give the workers back."""

        async def close(node: Node) -> dict[str, Any]:
            await node.close_client(unquote(client))
            return {}

        await self.answer(close)


ROUTES: list[tuple[str, type[NodeHandler]]] = [
    (r"/ainet/api/status", StatusHandler),
    (r"/ainet/api/models", ModelsHandler),
    (r"/ainet/api/plan", PlanHandler),
    (r"/ainet/api/generate", GenerateHandler),
    (r"/ainet/api/pipelines", PipelinesHandler),
    (r"/ainet/api/pipelines/([^/]+)", PipelinesHandler),
    (r"/ainet/api/invitations", InvitationsHandler),
    (r"/ainet/api/membership", MembershipHandler),
    (r"/ainet/api/members", MembersHandler),
    (r"/ainet/api/members/([^/]+)", MemberHandler),
    (r"/ainet/api/key/export", KeyExportHandler),
    (r"/ainet/api/key/import", KeyImportHandler),
    (r"/ainet/api/clients", ClientsHandler),
    (r"/ainet/api/clients/([^/]+)", ClientHandler),
]
