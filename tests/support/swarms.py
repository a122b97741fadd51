"""Nodes reduced to identity, links and pairing, for tests of what happens between devices."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from ainet.config import AinetConfig
from ainet.identity.identity import Identity
from ainet.links.links import Links
from ainet.pairing.pairing import Pairing
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


class Device:
    """One device: an identity that can be stopped and started again, at another time if wanted."""

    def __init__(
        self, folder: Path, name: str, *, now: Callable[[], float] = time.time, timing: Timing = TIMING, **settings: Any
    ) -> None:
        self.timing = timing
        self.folder, self.name = folder, name
        self.config = AinetConfig(data_dir=str(folder), name=name, **settings)
        self.log = logging.getLogger(f"ainet.tests.{name}")
        self.running = False
        self.open(now)

    def open(self, now: Callable[[], float] = time.time) -> Device:
        self.identity = Identity.open(self.folder, self.name, now=now)
        self.links = Links(self.identity, self.config, self.log, timing=self.timing)
        self.pairing = Pairing(self.identity, self.links, self.log)
        return self

    @property
    def id(self) -> str:
        return self.identity.id

    async def start(self) -> Device:
        await self.links.start()
        self.running = True
        return self

    async def stop(self) -> None:
        if self.running:
            self.running = False
            await self.pairing.stop()
            await self.links.stop()

    async def joins(self, other: Device) -> None:
        invitation = await other.pairing.invite()
        await self.pairing.join(invitation.ticket)


@contextlib.asynccontextmanager
async def devices(tmp_path: Path, *names: str, joined: bool = True, **settings: Any) -> AsyncIterator[list[Device]]:
    """Yield running devices of these names; the others are members of the first one's swarm."""
    made = [Device(tmp_path / name, name, **settings) for name in names]
    try:
        for device in made:
            await device.start()
        for device in made[1:] if joined else []:
            await device.joins(made[0])
        yield made
    finally:
        for device in made:
            await device.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}  # what was started is stopped


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


DAY = 86400.0


def at(seconds: float) -> Callable[[], float]:
    """Return a clock that is `seconds` ahead of (negative: behind) the real one."""
    return lambda: time.time() + seconds
