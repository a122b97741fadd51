"""Members reduced to identity, links and documents, for what is measured between them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pycrdt import Map

from ainet.config import AinetConfig
from ainet.documents.document import clocks
from ainet.documents.exchange import Documents
from ainet.identity.identity import Identity
from ainet.links.links import Links
from ainet.pairing.pairing import Pairing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LOG = logging.getLogger("benchmark")
PLAN = "shared/plan"


class Device:
    """A node reduced to identity, links and documents."""

    def __init__(self, folder: Path, name: str, **settings: Any) -> None:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.folder = folder
        self.identity = Identity.open(folder, name)
        self.links = Links(self.identity, AinetConfig(data_dir=str(folder), name=name, **settings), LOG)
        self.pairing = Pairing(self.identity, self.links, LOG)
        self.documents = Documents(self.links, folder / "documents.sqlite", LOG)

    async def start(self) -> Device:
        """Listen."""
        await self.links.start()
        return self

    async def stop(self) -> None:
        """End."""
        await self.documents.stop()
        await self.pairing.stop()
        await self.links.stop()


@contextlib.asynccontextmanager
async def swarm(n: int) -> AsyncIterator[list[Device]]:
    """Run `n` devices of one swarm, which are all linked."""
    with tempfile.TemporaryDirectory() as folder:
        devices = [await Device(Path(folder) / str(i), f"device{i}").start() for i in range(n)]
        try:
            for device in devices[1:]:
                await device.pairing.join((await devices[0].pairing.invite()).ticket)
            await until(lambda: all(len({link.peer_id for link in one.links.links()}) == n - 1 for one in devices), 60)
            yield devices
        finally:
            for device in devices:
                await device.stop()


async def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


def seen(device: Device) -> dict[int, int]:
    """Return how many changes of each client the device has."""
    return clocks(device.documents.open(PLAN).state)


def numbers(documents: Documents) -> Any:
    """Return the dict that is edited."""
    return documents.open(PLAN).doc.get("dict", type=Map)
