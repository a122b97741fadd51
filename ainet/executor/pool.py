"""The pipelines that this node has loaded: who uses them, and which are unloaded for want of use, memory or members."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from typing import TYPE_CHECKING

from ainet.errors import AinetError
from ainet.resources.memory import Memory
from ainet.signals import Signal
from ainet.tasks import Tasks
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from ainet.api.models import Plan
    from ainet.config import AinetConfig
    from ainet.executor.pipeline import Pipeline
    from ainet.hosting.requests import LoadProgress

#: A pipeline is placed anew when it was outdated this often in a row, each time after it was used.
OUTDATED_TIMES = 3


class PipelinePool:
    """Keeps pipelines until nobody has used them for a while, or something else needs their memory.

    Parameters
    ----------
    config
        `idle_seconds`.
    log
        For pipelines that are unloaded.
    is_superseded
        Tells whether another one answers in a pipeline's place.
    is_outdated
        Tells whether a pipeline that was used would now be placed in a better way.
    changed
        Called with the pipelines that can be asked when there are others than before.
    """

    def __init__(
        self,
        config: AinetConfig,
        log: logging.Logger,
        *,
        is_superseded: Callable[[Pipeline], bool],
        is_outdated: Callable[[Pipeline], Awaitable[bool]],
        changed: Callable[[list[Pipeline]], object],
        timing: Timing = TIMING,
    ) -> None:
        self._config = config
        self._log = log
        self._timing = timing
        self._is_superseded = is_superseded
        self._is_outdated = is_outdated
        #: When each pipeline had been used last when it was checked, and how often in a row it was outdated.
        self._checked: weakref.WeakKeyDictionary[Pipeline, tuple[float, int]] = weakref.WeakKeyDictionary()
        self._publish = changed
        #: Pipelines are loaded or gone, or others use them than before.
        self.changed: Signal[[]] = Signal("pipelines came, went or are used", log)
        self._loaded: list[Pipeline] = []
        self._locks: weakref.WeakValueDictionary[tuple[str, int | None, bool], asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._closing = Tasks("A pipeline was not unloaded cleanly", log)
        self._untold: set[Pipeline] = set()  # closed, but not on devices that are away
        self._telling = Tasks("Stages were not told to end", log)
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look for idle pipelines."""
        self._notify_untold()
        self._sweeper = asyncio.create_task(self._sweep(), name="idle pipelines")

    async def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await asyncio.gather(*(self.drop(pipeline) for pipeline in list(self._loaded)))
        await self.settle()
        await self._telling.stop()

    def usable(self) -> list[Pipeline]:
        """Return the pipelines that can be asked."""
        return [pipeline for pipeline in self._loaded if pipeline.usable]

    def find(self, digest: str, stages: int | None) -> list[Pipeline]:
        """Return the pipelines of the model with as many stages as are wanted; None: as placed without a wish."""
        return [
            pipeline
            for pipeline in self.usable()
            if pipeline.plan.model == digest
            if len(pipeline.plan.stages) == stages or (stages is None and pipeline.unforced)
        ]

    def find_private(self, digest: str, node: str) -> Pipeline | None:
        """Return a pipeline of the model whose first and last layers are on a node (id)."""
        for pipeline in self.usable():
            stages = pipeline.plan.stages
            if pipeline.plan.model == digest and stages[0].node == stages[-1].node == node:
                return pipeline
        return None

    @contextlib.asynccontextmanager
    async def alone(self, digest: str, stages: int | None, *, private: bool) -> AsyncGenerator[None, None]:
        """Let one at a time place the same model in the same way: the others then find it loaded."""
        lock = self._locks.setdefault((digest, stages, private), asyncio.Lock())
        async with lock:
            yield

    async def load(self, pipeline: Pipeline, progress: Callable[[LoadProgress], None]) -> None:
        """Load a pipeline and keep it; raises what `Pipeline.load` raises."""
        try:
            await pipeline.load(progress)
        except BaseException:
            self._closed(pipeline)
            raise
        pipeline.abandoned, pipeline.used = self.abandon, self.changed.emit
        self._loaded.append(pipeline)
        self._notify_untold()

    def idle_memory(self) -> dict[str, Memory]:
        """Return the memory of each node (by id) that unloading idle pipelines would free."""
        freed: dict[str, Memory] = {}
        for pipeline in self._loaded:
            for node, memory in pipeline.memory.items() if pipeline.idle else []:
                freed[node] = freed.get(node, Memory()) + memory
        return freed

    async def make_room(self, plan: Plan, free: Mapping[str, Memory]) -> None:
        """Unload idle pipelines, the longest unused first, until `plan` fits into what is `free` (by node id)."""
        left = {stage.node: free.get(stage.node, Memory()) for stage in plan.stages}
        for stage in plan.stages:
            left[stage.node] -= Memory(stage.memory, stage.gpu_memory)
        for pipeline in sorted(self._loaded, key=lambda one: one.last_used):
            memory = pipeline.memory
            wanted = any(left[node].lacks and memory[node].helps(left[node]) for node in left.keys() & memory.keys())
            if pipeline.idle and wanted:
                self._log.info("%s is unloaded: its memory is wanted.", pipeline.plan.name)
                await self.drop(pipeline)
                for node in left.keys() & memory.keys():
                    left[node] += memory[node]

    async def drop(self, pipeline: Pipeline) -> None:
        """Unload a pipeline; a second time does nothing."""
        if pipeline in self._loaded:
            self._loaded.remove(pipeline)
            self._notify_untold()
            await self._close(pipeline)

    def abandon(self, pipeline: Pipeline, *, park: bool = True) -> None:
        """Unload a broken pipeline without keeping anybody waiting for it; its models stay for one in its place."""
        if pipeline in self._loaded:
            self._loaded.remove(pipeline)
            self._notify_untold()
            self._closing.spawn(self._close(pipeline, park=park))

    async def settle(self, seconds: float | None = None) -> bool:
        """Wait until abandoned pipelines have given their memory back, at most this long; tell whether they have."""
        await self._closing.finish(seconds)
        if seconds is None:
            await asyncio.gather(*(pipeline.notify() for pipeline in list(self._untold)))
        return not (self._closing.busy or self._untold)

    def called(self, name: str) -> set[str]:
        """Return the digests of the loaded models that were asked for by this name, or have this digest."""
        return {pipeline.digest for pipeline in self._loaded if pipeline.is_called(name)}

    async def unload(self, models: set[str] | None = None) -> list[str]:
        """Unload the pipelines of the models with these digests, or all; returns the models' names."""
        wanted = [pipeline for pipeline in self._loaded if models is None or pipeline.digest in models]
        for pipeline in wanted:
            pipeline.unwanted = True
        await asyncio.gather(*(self.drop(pipeline) for pipeline in wanted))
        return list(dict.fromkeys(pipeline.plan.name for pipeline in wanted))

    def revoke(self, node_id: str) -> None:
        """Unload every pipeline in which the node takes part: it is not asked any more."""
        for pipeline in list(self._loaded):
            if any(stage.node == node_id for stage in pipeline.plan.stages):
                pipeline.cut()
                self.abandon(pipeline, park=False)

    def _closed(self, pipeline: Pipeline) -> None:
        """See to it that devices which are away now unload a closed pipeline's stages as soon as they are back."""
        if pipeline.untold and pipeline not in self._untold:
            self._untold.add(pipeline)
            self._telling.spawn(self._keep_telling(pipeline))

    async def _keep_telling(self, pipeline: Pipeline) -> None:
        try:
            while pipeline.untold:
                await asyncio.sleep(self._timing.untold_again)
                await pipeline.notify()
        finally:
            self._untold.remove(pipeline)

    async def _close(self, pipeline: Pipeline, *, park: bool = False) -> None:
        try:
            await pipeline.close(park=park)
        finally:
            self._closed(pipeline)

    def _notify_untold(self) -> None:
        self.changed.emit()
        try:
            self._publish(self.usable())
        except AinetError as exc:
            self._log.warning("The members are not told what is loaded: %s", exc.message)

    async def _is_due(self, pipeline: Pipeline) -> bool:
        """Whether a pipeline that nobody uses now was outdated after each of its last uses: once may be chance."""
        checked, times = self._checked.get(pipeline, (0.0, 0))
        if not (pipeline.usable and pipeline.idle) or checked == pipeline.last_used:
            return False
        used = pipeline.last_used
        try:
            outdated = await self._is_outdated(pipeline)
        except AinetError as exc:
            self._log.info("It is not known how fast the stages of %s are: %s", pipeline.plan.name, exc)
            outdated = False
        times = times + 1 if outdated else 0
        self._checked[pipeline] = used, times
        return times >= OUTDATED_TIMES

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(self._timing.pool_sweep, self._config.idle_seconds))
            now = time.monotonic()
            for pipeline in list(self._loaded):
                unused = now - pipeline.last_used > self._config.idle_seconds or self._is_superseded(pipeline)
                outdated = not unused and await self._is_due(pipeline)
                if ((unused or outdated) and pipeline.idle) or not pipeline.usable:
                    why = "its devices are not as fast as they were" if outdated else "nobody uses it"
                    self._log.info("%s is unloaded: %s.", pipeline.plan.name, why)
                    try:
                        await self.drop(pipeline)
                    except AinetError as exc:
                        self._log.warning("%s was not unloaded cleanly: %s", pipeline.plan.name, exc)
                    except Exception:
                        self._log.exception("%s was not unloaded cleanly.", pipeline.plan.name)
