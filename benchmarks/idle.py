"""What a node costs while nothing happens."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import psutil
from swarm import swarm

from ainet.client.client import NodeClient
from ainet.daemon import daemon


async def idle_traffic(seconds: float) -> float:
    """Return the bytes a second that an idle link carries, both directions together."""
    async with swarm(2) as (one, other):
        links = [one.links.links()[0], other.links.links()[0]]
        await asyncio.sleep(2)
        before = [link.transport.received for link in links]
        await asyncio.sleep(seconds)
        return sum(link.transport.received - was for link, was in zip(links, before, strict=True)) / seconds


def idle_cpu(seconds: float) -> dict[str, float]:
    """Return the share of a core that an idle node with one linked member takes: its server, and all its processes."""
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for name in ("one", "other"):
            data_dir = Path(folder) / name
            found, _ = daemon.up(data_dir, {"name": name, "threads": 1, "memory": "1GB"})
            running.append((data_dir, found))
        try:
            clients = [NodeClient(found.url, found.token) for _, found in running]
            clients[1].join(clients[0].invite().ticket)
            server = psutil.Process(running[0][1].pid)
            family = [server, *server.children(recursive=True)]
            time.sleep(5)
            before = [sum(process.cpu_times()[:2]) for process in family]
            time.sleep(seconds)
            used = [sum(process.cpu_times()[:2]) - was for process, was in zip(family, before, strict=True)]
            for client in clients:
                client.close()
            return {"server": used[0] / seconds, "all_processes": sum(used) / seconds}
        finally:
            for data_dir, _ in running:
                daemon.down(data_dir)
