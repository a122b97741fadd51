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

from ainet.errors import AinetError
from ainet.executor.request import GenerateRequest
from ainet.placement.what_if import described
from ainet.server.base import NodeHandler
from ainet.server.checks import check_count, check_text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ainet.node.node import Node


class StatusHandler(NodeHandler):
    """The node, its members and pipelines at a glance."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with `Node.status` and the address of this server."""

        async def status(node: Node) -> dict[str, Any]:
            found = await node.status()
            found["node"]["url"] = self.served.url
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


class WhatIfRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What to plan for, and on which devices."""

    devices: Any
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

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer with `Node.plan` for devices that need not exist."""

        async def plan(node: Node) -> dict[str, Any]:
            wanted = self.decode(WhatIfRequest)
            return await node.plan(wanted.model, wanted.stages, described({"devices": wanted.devices}))

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
            events = self.served.running_node().generate(request)
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
