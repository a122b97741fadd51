"""Routes that stream lines of JSON for as long as there is something to say, and somebody to listen."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from tornado.iostream import StreamClosedError

from ainet.api.generate import Failed
from ainet.errors import AinetError
from ainet.server.base import MISTAKE, NodeHandler

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

T = TypeVar("T")


async def with_pauses(items: AsyncGenerator[T, None], seconds: float) -> AsyncGenerator[T | None, None]:
    """Pass on what a generator yields, and None whenever it has yielded nothing for so many seconds; closes it."""
    coming: asyncio.Task[T] | None = None
    try:
        while True:
            coming = coming or asyncio.create_task(anext(items))
            await asyncio.wait([coming], timeout=seconds)
            if not coming.done():
                yield None
                continue
            done, coming = coming, None
            try:
                item = done.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await items.aclose()


class StreamHandler(NodeHandler):
    """Streams what a generator yields; closes it when the connection does."""

    def initialize(self) -> None:
        super().initialize()
        self._sending: asyncio.Task[None] | None = None

    async def stream(self, items: AsyncGenerator[Any, None], *, alive: float | None = None) -> None:
        """Send each item as a line; an error before the first one has its own status, a later one is a line, too.

        Parameters
        ----------
        alive
            Seconds of silence after which an empty line is sent: so that both ends notice when the other one is gone.
            Then the next item waits for who reads slowly. Else there are not so many items that they could not wait
            here: whoever does not read what it has asked for keeps nothing else busy.
        """
        # Small writes must leave at once: the next item may be long in coming.
        self.connection.stream.set_nodelay(True)
        self._sending = asyncio.create_task(self._send(items, alive))
        with contextlib.suppress(asyncio.CancelledError, StreamClosedError):
            await self._sending

    async def _send(self, items: AsyncGenerator[Any, None], alive: float | None) -> None:
        self.set_header("X-Accel-Buffering", "no")
        try:
            async with contextlib.aclosing(items):
                if alive is None:
                    async for item in items:
                        await self._write_line(msgspec.json.encode(item))
                else:
                    async for item in with_pauses(items, alive):
                        await self._write_line(b"" if item is None else msgspec.json.encode(item), waits=True)
        except (StreamClosedError, asyncio.CancelledError):
            raise
        except Exception as exc:
            if not self._headers_written:
                if not isinstance(exc, AinetError):
                    raise
                self.fail(exc)
                return
            if not isinstance(exc, AinetError):
                self.log.exception("A stream failed.")
                exc = AinetError(MISTAKE)
            await self._write_line(msgspec.json.encode(Failed(error=exc.to_dict())))
        self.finish(set_content_type="application/x-ndjson")

    async def _write_line(self, line: bytes, *, waits: bool = False) -> None:
        if not self._headers_written:
            self.set_header("Content-Type", "application/x-ndjson")
        self.write(line + b"\n")
        if waits:
            await self.flush()
        else:
            self.push()

    def on_connection_close(self) -> None:
        """Close the generator: nobody listens any more."""
        super().on_connection_close()
        if self._sending is not None:
            self._sending.cancel()
