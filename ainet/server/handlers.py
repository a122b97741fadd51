"""The node's HTTP routes: JSON in, JSON or lines of JSON out.

Handlers know nothing but `Node`. Errors are `AinetError.to_dict()` with the error's status.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec
from jupyter_server.auth.decorator import authorized
from tornado import web
from tornado.iostream import StreamClosedError

from ainet.errors import AinetError, UsageError
from ainet.executor.request import GenerateRequest
from ainet.network.frames import MAX_ADDRESS
from ainet.server.base import NodeHandler

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ainet.node import Node

MAX_TEXT = 4096
MAX_KEY = 65536
MAX_COUNT = 1024
MAX_MINUTES = 24 * 60


def check_text(option: str, text: str | None, most: int = MAX_TEXT) -> None:
    """Raise `UsageError` for a text that is empty or has more than `most` characters."""
    if text is not None and not 1 <= len(text) <= most:
        msg = f"{option} has {len(text)} characters; it must have 1 to {most}."
        raise UsageError(msg)


def check_count(option: str, number: int | None) -> None:
    """Raise `UsageError` for a number that is not in the range of 1 to `MAX_COUNT`."""
    if number is not None and not 1 <= number <= MAX_COUNT:
        msg = f"{option} is {number}; it must lie between 1 and {MAX_COUNT}."
        raise UsageError(msg)


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

    model: str | None = None
    stages: int | None = None

    def __post_init__(self) -> None:
        check_text("model", self.model)
        check_count("stages", self.stages)


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
    """Where to wait for the joining device (host or host:port), how long, and whether on the local networks."""

    listen: str | None = None
    minutes: float = 10.0
    lan: bool = False

    def __post_init__(self) -> None:
        check_text("listen", self.listen)
        if not 0 < self.minutes <= MAX_MINUTES:
            msg = f"minutes is {self.minutes:g}; a ticket is valid for more than 0 and at most {MAX_MINUTES} minutes."
            raise UsageError(msg)


class InvitationsHandler(NodeHandler):
    """Tickets for further devices."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer with a new ticket."""

        async def invite(node: Node) -> dict[str, Any]:
            wanted = self.decode(Invitation)
            return await node.invite(wanted.listen, wanted.minutes, lan=wanted.lan)

        await self.answer(invite)


class Membership(msgspec.Struct, forbid_unknown_fields=True):
    """A ticket, and the name that this device wants to have in the swarm."""

    ticket: str
    name: str | None = None
    lan: bool = False

    def __post_init__(self) -> None:
        check_text("ticket", self.ticket)
        check_text("name", self.name)


class MembershipHandler(NodeHandler):
    """The place of this device in a swarm."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Join the swarm that a ticket is for."""

        async def join(node: Node) -> dict[str, Any]:
            wanted = self.decode(Membership)
            return await node.join(wanted.ticket, wanted.name, lan=wanted.lan)

        await self.answer(join)


class MembersHandler(NodeHandler):
    """The members of the swarm."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with `Node.members`."""
        await self.answer(lambda node: node.members())


class IntroductionsHandler(NodeHandler):
    """Tickets for devices of other owners."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer with a new ticket."""

        async def introduce(node: Node) -> dict[str, Any]:
            wanted = self.decode(Invitation)
            return await node.introduce(wanted.listen, wanted.minutes, lan=wanted.lan)

        await self.answer(introduce)


class Acceptance(msgspec.Struct, forbid_unknown_fields=True):
    """The ticket of an introduction."""

    ticket: str
    lan: bool = False

    def __post_init__(self) -> None:
        check_text("ticket", self.ticket)


class ContactsHandler(NodeHandler):
    """Devices of other owners."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with `Node.contacts`."""
        await self.answer(lambda node: node.contacts())

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Become contacts with the device that gave out a ticket."""

        async def accept(node: Node) -> dict[str, Any]:
            wanted = self.decode(Acceptance)
            return await node.accept(wanted.ticket, lan=wanted.lan)

        await self.answer(accept)


class ContactHandler(NodeHandler):
    """One of them."""

    @web.authenticated
    @authorized
    async def delete(self, name: str) -> None:
        """Forget the contact."""
        await self.answer(lambda node: node.forget(unquote(name)))


class Setting(msgspec.Struct, forbid_unknown_fields=True):
    """A setting for all members; None takes it back."""

    key: str
    value: str | None = None

    def __post_init__(self) -> None:
        check_text("key", self.key)


class SettingsHandler(NodeHandler):
    """The settings that all members share."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with all of them."""
        await self.answer(lambda node: node.swarm_settings())

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Change one."""

        async def change(node: Node) -> dict[str, str]:
            wanted = self.decode(Setting)
            return await node.swarm_settings(wanted.key, wanted.value)

        await self.answer(change)


class NotebookShare(msgspec.Struct, forbid_unknown_fields=True):
    """Which notebook to share, under which name, and whether the others may change it."""

    path: str
    name: str | None = None
    read_only: bool = False

    def __post_init__(self) -> None:
        check_text("path", self.path)
        check_text("name", self.name)


class NotebooksHandler(NodeHandler):
    """The notebooks that members share."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with the list."""

        async def listed(node: Node) -> list[dict[str, Any]]:
            return node.notebooks.list()

        await self.answer(listed)

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Share one."""

        async def share(node: Node) -> dict[str, Any]:
            wanted = self.decode(NotebookShare)
            return await node.notebooks.share(wanted.path, wanted.name, read_only=wanted.read_only)

        await self.answer(share)


class NotebookOpening(msgspec.Struct, forbid_unknown_fields=True):
    """Which shared notebook to open, and as which file."""

    name: str
    path: str | None = None

    def __post_init__(self) -> None:
        check_text("name", self.name)
        check_text("path", self.path)


class OpenNotebookHandler(NodeHandler):
    """The notebooks of others."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Open one."""

        async def opened(node: Node) -> dict[str, Any]:
            wanted = self.decode(NotebookOpening)
            return await node.notebooks.open(wanted.name, wanted.path)

        await self.answer(opened)


class NotebookHandler(NodeHandler):
    """One shared notebook."""

    @web.authenticated
    @authorized
    async def delete(self, name: str) -> None:
        """Stop sharing it."""
        await self.answer(lambda node: node.notebooks.unshare(unquote(name)))


class PeersHandler(NodeHandler):
    """The other devices."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with `Node.peers`."""
        await self.answer(lambda node: node.peers())


class LinkRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Where a member listens."""

    address: str

    def __post_init__(self) -> None:
        check_text("address", self.address, MAX_ADDRESS)


class LinksHandler(NodeHandler):
    """The links to members."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Connect to the member at an address."""
        await self.answer(lambda node: node.connect(self.decode(LinkRequest).address))


class MemberHandler(NodeHandler):
    """One member."""

    @web.authenticated
    @authorized
    async def delete(self, name: str) -> None:
        """Remove the member from the swarm."""
        await self.answer(lambda node: node.remove(unquote(name)))


class KeyExport(msgspec.Struct, forbid_unknown_fields=True):
    """What the swarm's key is encrypted with."""

    passphrase: str

    def __post_init__(self) -> None:
        check_text("passphrase", self.passphrase)


class KeyExportHandler(NodeHandler):
    """The swarm's key, for a second device that may issue certificates."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer with the encrypted key."""

        async def export(node: Node) -> dict[str, str]:
            wanted = self.decode(KeyExport)
            return {"key": await node.export_key(wanted.passphrase)}

        await self.answer(export)


class KeyImport(msgspec.Struct, forbid_unknown_fields=True):
    """An exported key and what it is encrypted with."""

    key: str
    passphrase: str

    def __post_init__(self) -> None:
        check_text("key", self.key, MAX_KEY)
        check_text("passphrase", self.passphrase)


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

    workers: int | None = None

    def __post_init__(self) -> None:
        check_count("workers", self.workers)


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
    (r"/ainet/api/settings", SettingsHandler),
    (r"/ainet/api/notebooks", NotebooksHandler),
    (r"/ainet/api/notebooks/open", OpenNotebookHandler),
    (r"/ainet/api/notebooks/([^/]+)", NotebookHandler),
    (r"/ainet/api/introductions", IntroductionsHandler),
    (r"/ainet/api/contacts", ContactsHandler),
    (r"/ainet/api/contacts/([^/]+)", ContactHandler),
    (r"/ainet/api/peers", PeersHandler),
    (r"/ainet/api/links", LinksHandler),
    (r"/ainet/api/key/export", KeyExportHandler),
    (r"/ainet/api/key/import", KeyImportHandler),
    (r"/ainet/api/clients", ClientsHandler),
    (r"/ainet/api/clients/([^/]+)", ClientHandler),
]
