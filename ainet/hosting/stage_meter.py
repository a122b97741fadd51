"""What stages compute, and for whom: looked at again and again, and whenever a stage ends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from ainet.errors import AinetError
from ainet.resources.work import Work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ainet.hosting.hosted_stage import HostedStage
    from ainet.resources.work import NoteWork
    from ainet.stages.protocol.state import StageState


class StageMeter:
    """Asks stages what they have computed, and takes note of what is new.

    The process of a stage that is ended by force takes with it what it has computed since it was asked last.

    Parameters
    ----------
    stages
        Returns the stages that are there.
    ask
        Asks a stage's process.
    every
        Seconds between two looks.
    """

    def __init__(
        self,
        stages: Callable[[], list[HostedStage]],
        ask: Callable[[HostedStage, Callable[[Any], Any]], Awaitable[Any]],
        note: NoteWork,
        *,
        every: float,
    ) -> None:
        self._stages, self._ask, self._note, self._every = stages, ask, note, every
        self._looking: asyncio.Task[None] | None = None

    async def begin(self, stage: HostedStage) -> StageState:
        """Return the state of a stage that was loaded: what its process computed before was for somebody else."""
        state: StageState = await self._ask(stage, lambda actor: actor.state())
        stage.measured = state.rows, state.seconds
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="what stages compute")
        return state

    async def measure(self, stage: HostedStage) -> StageState:
        """Return the state of a stage, and take note of what it has computed; raises what asking it raises."""
        return await self._measure(stage, stage.actor)

    async def last(self, stage: HostedStage, actor: Any) -> None:
        """Take note of what a stage has computed that is about to end, if its `actor` still says so."""
        if actor is not None and stage.address is not None and not stage.lost.is_set():
            with contextlib.suppress(AinetError):
                await self._measure(stage, actor)

    async def _measure(self, stage: HostedStage, actor: Any) -> StageState:
        state: StageState = await self._ask(stage, lambda _: actor.state())
        rows, seconds = state.rows - stage.measured[0], state.seconds - stage.measured[1]
        stage.measured = state.rows, state.seconds
        if rows > 0:
            spec = stage.spec
            layers = spec.last_layer - spec.first_layer + 1
            self._note(Work("layers", spec.owner, stage.name, layer_tokens=rows * layers, seconds=seconds))
        return state

    async def look(self) -> None:
        """Take note of what all stages have computed until now."""
        await asyncio.gather(*(self.last(stage, stage.actor) for stage in self._stages()))

    async def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        while self._stages():
            await self.look()
            await asyncio.sleep(self._every)
