"""After what time things happen that are said to happen after a time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from typing import TYPE_CHECKING

from desk import desk
from swarm import swarm, until

from ainet.api.node import status
from ainet.links.frames import Ping, ToPort

if TYPE_CHECKING:
    from collections.abc import Callable

    from ainet.links.frames import Frame
    from ainet.links.link import PeerLink

#: After this many seconds without a question a pipeline is unloaded, in this measurement.
IDLE_SECONDS = 15.0


async def keepalive(pings: int = 5) -> float:
    """Return the seconds between two signs of life on an idle link."""
    async with swarm(2) as (one, other):
        heard: list[float] = []
        for device in (one, other):
            for link in device.links.links():
                listen(link, heard)
        await until(lambda: len(heard) > pings)
        return statistics.median(later - before for before, later in itertools.pairwise(heard))


def listen(link: PeerLink, heard: list[float]) -> None:
    """Note when the link's peer pings."""
    receive: Callable[[Frame], None] = link._receive

    def note(frame: Frame) -> None:
        if isinstance(frame, Ping):
            heard.append(time.perf_counter())
        receive(frame)

    link._receive = note  # type: ignore[method-assign]


async def leaving() -> float:
    """Return the seconds until a member that stops in order is unreachable for another one."""
    async with swarm(2) as (one, other):
        begun = time.perf_counter()
        stopping = asyncio.create_task(other.links.stop())
        await until(lambda: one.links.open_link(other.identity.id) is None)
        seconds = time.perf_counter() - begun
        await stopping
        return seconds


async def silence() -> dict[str, float]:
    """Return the seconds until a member that fell silent is unreachable, and from then until its channels end."""
    async with swarm(2) as (one, other):
        service = await asyncio.start_server(ignore, "127.0.0.1", 0)
        port = service.sockets[0].getsockname()[1]
        one.links.channels.expose("127.0.0.1", port)
        link = await other.links.connect(one.identity.id)
        channel = other.links.channels.open(one.identity.id, ToPort(port))
        channel.write(b"something")
        await until(lambda: one.links.channels.count(other.identity.id))
        for device in (one, other):
            await device.links.upkeep.stop()  # nobody dials again
            for silent in device.links.links():
                silent.transport._carrier.write = drop  # type: ignore[method-assign, assignment]
        begun = time.perf_counter()
        await link.closed.wait()
        unreachable = time.perf_counter() - begun
        begun = time.perf_counter()
        with contextlib.suppress(ConnectionResetError):
            await channel.read()
        ended = time.perf_counter() - begun
        service.close()
        return {"unreachable_after_s": unreachable, "channels_end_after_s": ended}


async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read everything."""
    while await reader.read(1024):
        pass
    writer.close()


def drop(_data: bytes) -> None:
    """Let bytes vanish, as a cable does that was pulled."""


def idle_pipeline() -> float:
    """Return the seconds from an answer of a real node until its model is unloaded, with `IDLE_SECONDS`."""
    with desk(idle_seconds=IDLE_SECONDS, memory="1GB", threads=1) as node:
        node.ask("Hi", max_tokens=2)
        begun = time.perf_counter()
        while node.call(status).pipelines:
            time.sleep(0.1)
        return time.perf_counter() - begun
