"""TCP services, and channels to them."""

from __future__ import annotations

import asyncio
import contextlib
import random

from ainet.links.channel import WINDOW

DATA = random.Random(1).randbytes(3 * WINDOW + 12345)


@contextlib.asynccontextmanager
async def service(answer):
    """Run a TCP service; yields its port."""

    serving = set()

    async def serve(reader, writer):
        serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await answer(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)
        await server.wait_closed()


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def talk(channel, data):
    """Send `data` and return what comes back until the end."""

    async def write():
        for begin in range(0, len(data), 50_000):
            channel.write(data[begin : begin + 50_000])
            await channel.drain()
        channel.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        back = bytearray()
        while piece := await channel.read():
            back += piece
    return bytes(back)


def unreachable(device, from_device):
    """Make `device` impossible to dial for `from_device`."""
    book = from_device.links.book

    def addresses(node_id, before=book.addresses):
        return [] if node_id == device.id else before(node_id)

    book.addresses = addresses
