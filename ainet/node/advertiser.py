"""The advertiser: keeps the swarm informed of what this node has and does."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ainet.api.swarm import Device, Gift, HeldModel, HeldStage, Load
from ainet.errors import AinetError
from ainet.swarm.facts import CAPABILITIES, GIFTS, STAGES, WORKERS
from ainet.version import __version__

if TYPE_CHECKING:
    import logging

    from ainet.config import AinetConfig
    from ainet.hosting.stages import HostedStages
    from ainet.models.catalog import ModelCatalog
    from ainet.resources.allocator import Allocator
    from ainet.swarm.feeds import Feeds

#: Stages and load are looked at this often (s), files less often: that reads folders.
LOOK_SECONDS = 2.0
FILES_SECONDS = 60.0
MAX_MODELS = 200


class Advertiser:
    """Writes this node's feeds of capabilities and gifts whenever something changes.

    Parameters
    ----------
    config, allocator, catalog, stages
        The sources of what is told.
    feeds
        The feeds in which it is told.
    speed
        Bytes of weights that one thread reads in a second, measured.
    log
        For what cannot be told.
    """

    def __init__(
        self,
        *,
        config: AinetConfig,
        allocator: Allocator,
        catalog: ModelCatalog,
        stages: HostedStages,
        feeds: Feeds,
        speed: float,
        log: logging.Logger,
    ) -> None:
        self._config = config
        self._allocator = allocator
        self._catalog = catalog
        self._stages = stages
        self._feeds = feeds
        self._speed = speed
        self._log = log
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="advertiser")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        looked = -FILES_SECONDS
        while True:
            try:
                told = self._facts()
                if time.monotonic() - looked >= FILES_SECONDS:
                    looked = time.monotonic()
                    told["models"] = await asyncio.to_thread(self._models)
                self._feeds.publish(CAPABILITIES, told)
                self._feeds.publish(GIFTS, self._gifts())
            except AinetError as exc:
                self._log.warning("The other members are not told what this node has: %s", exc.message)
            except Exception:
                self._log.exception("The other members are not told what this node has; it is tried again.")
            await asyncio.sleep(LOOK_SECONDS)

    def _facts(self) -> dict[str, object]:
        caps = self._allocator.caps
        tenth = max(1, caps.memory // 10)
        return {
            "device": Device(__version__, caps.memory, caps.disk, caps.threads, caps.gpu, self._speed),
            "stages": [
                HeldStage(stage.name, stage.spec.first_layer, stage.spec.last_layer)
                for stage in self._stages.stages()
                if stage.address is not None
            ],
            "load": Load(round(self._allocator.reserved.memory / tenth) * tenth),
        }

    def _gifts(self) -> dict[str, Gift | None]:
        caps = self._allocator.caps
        return {
            STAGES: Gift(caps.memory, caps.threads, caps.gpu),
            WORKERS: Gift(caps.memory, caps.threads) if self._config.lend else None,
        }

    def _models(self) -> list[HeldModel]:
        entries = [entry for entry in self._catalog.list() if entry.error is None]
        return [HeldModel(entry.name, entry.digest, entry.size, entry.layers) for entry in entries[:MAX_MODELS]]
