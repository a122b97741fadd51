"""Models that stay loaded for a while after their pipeline broke, for the stages that take its place."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ainet.resources.memory import Memory
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ainet.hosting.hosted_stage import HostedStage
    from ainet.stages.protocol.spec import StageSpec


class Parking:
    """Stages that have ended, but whose models are still loaded.

    Parameters
    ----------
    close
        Unloads a model and gives its memory back.
    """

    def __init__(self, close: Callable[[HostedStage], Awaitable[None]], *, timing: Timing = TIMING) -> None:
        self._close = close
        self._timing = timing
        self._kept: list[HostedStage] = []
        self._ending: dict[HostedStage, asyncio.Task[None]] = {}

    def __bool__(self) -> bool:
        """Whether memory can come free here."""
        return bool(self._kept or self._ending)

    @property
    def stages(self) -> list[HostedStage]:
        """All whose models are loaded, also those that are being unloaded."""
        return [*self._kept, *self._ending]

    @property
    def memory(self) -> Memory:
        """The memory that is reserved for what is kept: it is given up when anything else needs it."""
        kept = [stage.reservation for stage in self._kept if not stage.reservation.released]
        return Memory(sum(one.memory for one in kept), sum(one.gpu_memory for one in kept))

    def keep(self, stage: HostedStage) -> None:
        """Keep the model of a stage that has ended, and unload it after a while."""
        self._kept.append(stage)
        asyncio.get_running_loop().call_later(self._timing.park, self._expire, stage)

    def reclaim(self, spec: StageSpec, *, local: bool) -> HostedStage | None:
        """Return a stage whose model one of this kind can use; it is not kept here any more."""
        for stage in self._kept:
            if stage.is_like(spec, local=local) and not stage.reservation.released:
                self._kept.remove(stage)
                return stage
        return None

    def lose(self, stage: HostedStage) -> None:
        """Forget a stage whose worker was lost."""
        if stage in self._kept:
            self._kept.remove(stage)

    async def clear(self) -> None:
        """Unload everything; whoever stops waiting does not stop that."""
        for stage in list(self._kept):
            self._give_up(stage)
        if self._ending:
            await asyncio.wait(list(self._ending.values()))

    def _expire(self, stage: HostedStage) -> None:
        if stage in self._kept:
            self._give_up(stage)

    def _give_up(self, stage: HostedStage) -> None:
        self._kept.remove(stage)
        self._ending[stage] = asyncio.create_task(self._end(stage))

    async def _end(self, stage: HostedStage) -> None:
        try:
            await self._close(stage)
        finally:
            del self._ending[stage]
