"""The route of generations: lines of JSON for as long as the answer grows."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec
from jupyter_server.auth.decorator import authorized
from tornado import web
from tornado.iostream import StreamClosedError

from ainet.api.generate import Failed, GenerateRequest
from ainet.api.verb import read
from ainet.errors import AinetError, UsageError
from ainet.server.base import MISTAKE, NodeHandler

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ainet.api.generate import Event


class GenerateHandler(NodeHandler):
    """One generation, streamed as lines of JSON; it ends when the connection does."""

    def initialize(self) -> None:
        super().initialize()
        self._sending: asyncio.Task[None] | None = None

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Stream the events of `Node.generate`; an error before the first event has its own status."""
        try:
            request = self._request()
            events = self.served.running_node().generate(request)
        except AinetError as error:
            self.fail(error)
            return
        # Small writes must leave at once: the next token may be long in coming.
        self.connection.stream.set_nodelay(True)
        self._sending = asyncio.create_task(self._send(events))
        with contextlib.suppress(asyncio.CancelledError, StreamClosedError):
            await self._sending

    def _request(self) -> GenerateRequest:
        try:
            return read(self.decode(), GenerateRequest)
        except ValueError as exc:
            raise UsageError(f"The request is not understood: {exc}.") from exc

    async def _send(self, events: AsyncGenerator[Event, None]) -> None:
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
                exc = AinetError(MISTAKE)
            await self._write_line(Failed(error=exc.to_dict()))
        self.finish(set_content_type="application/x-ndjson")

    async def _write_line(self, event: Event | Failed) -> None:
        if not self._headers_written:
            self.set_header("Content-Type", "application/x-ndjson")
        self.write(msgspec.json.encode(event) + b"\n")
        await self.flush()

    def on_connection_close(self) -> None:
        """Cancel the generation: nobody listens any more."""
        super().on_connection_close()
        if self._sending is not None:
            self._sending.cancel()
