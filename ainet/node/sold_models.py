"""The pipelines of this node, for whoever sells their answers."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from ainet.api.generate import GenerateRequest
from ainet.economy.credits import millions
from ainet.economy.works import SoldModel
from ainet.errors import NotEnough, NotFound
from ainet.executor.metered import metered
from ainet.executor.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from ainet.economy.works import Ready
    from ainet.executor.provider import Provider
    from ainet.executor.running import RunningAnswers
    from ainet.hosting.requests import LoadProgress
    from ainet.models.manifest import Manifest
    from ainet.models.tensors import TensorStore
    from ainet.models.tokenizer import Tokenizer
    from ainet.resources.work import NoteWork
    from ainet.stages.protocol.flow import Flow
    from ainet.stages.protocol.generation import Event, Open
    from ainet.swarm.settings import SwarmSettings


class SoldModels:
    """Has models loaded for others, on pipelines whose first and last layers are here: members do not see questions.

    Parameters
    ----------
    provider
        The source of pipelines.
    settings
        Which model is answered with when none is named.
    store
        Has vocabularies.
    note_work, running
        Take note of what is done for others.
    """

    def __init__(
        self,
        provider: Provider,
        settings: SwarmSettings,
        store: TensorStore,
        window: int,
        *,
        note_work: NoteWork,
        running: RunningAnswers,
    ) -> None:
        self._provider, self._settings, self._store = provider, settings, store
        self._window, self._note_work, self._running = window, note_work, running

    async def models(self, names: Sequence[str], *, measure: bool = False) -> list[SoldModel]:
        """Return the models with these names; see `Works`."""
        wanted: list[str | None] = [*names] or [self._settings.get("model")]
        return [await self._model(name, measure=measure) for name in wanted]

    async def vocabulary(self, tokenizer: Tokenizer) -> bytes:
        """Return a vocabulary as it travels; see `Works`."""
        return await asyncio.to_thread(self._store.read, tokenizer.hash, 0, tokenizer.nbytes)

    def is_ready(self, model: SoldModel) -> bool:
        """Whether the model is loaded; see `Works`."""
        return self._loaded(model.digest.hex()) is not None

    async def ready(self, model: SoldModel, requester: str) -> AsyncGenerator[str | Ready, None]:
        """Have the model loaded for a while; see `Works`."""
        request = GenerateRequest(messages=[], model=model.digest.hex(), private=True)
        reports: asyncio.Queue[LoadProgress | None] = asyncio.Queue()
        loading = self._provider.obtain(request, "", reports.put_nowait)
        loading.add_done_callback(lambda _: reports.put_nowait(None))
        try:
            while (report := await reports.get()) is not None:
                yield report.text
            if loading.cancelled():
                raise NotFound(f"{model.name} was unloaded while it was being loaded.")
            pipeline = loading.result()
            if not isinstance(pipeline, Pipeline):
                raise NotFound(f"{model.name} is not loaded here any more.")
            yield _ReadyPipeline(pipeline, requester, self._note_work, self._running)
        finally:
            await self._provider.finish(loading)

    async def _model(self, name: str | None, *, measure: bool) -> SoldModel:
        manifest = await self._provider.manifest(name)
        digest = bytes.fromhex(manifest.digest)
        seconds = await self._seconds(manifest)
        window = min(self._window, manifest.n_ctx_train)
        slots = self._provider.slots(manifest)
        parameters = millions(manifest.active_parameters)
        sold = SoldModel(digest, manifest.name, parameters, window, manifest.tokenizer, seconds, slots)
        if measure:
            async with contextlib.aclosing(self.ready(sold, "")) as steps:
                async for step in steps:
                    if not isinstance(step, str):
                        sold = sold._replace(seconds=await self._seconds(manifest))
        return sold

    async def _seconds(self, manifest: Manifest) -> float:
        """Return the time of a token: as the stages that are loaded measured, else as it would be placed."""
        pipeline = self._loaded(manifest.digest)
        if pipeline is not None:
            measured = [figures.token_seconds for figures in await pipeline.figures()]
            return sum(measured) if len(measured) == len(pipeline.plan.stages) else pipeline.plan.seconds
        plan = (await self._provider.plan(manifest, private=True)).plan
        if not plan.stages:
            raise NotEnough(f"{manifest.name} does not fit on this device.")
        return plan.seconds

    def _loaded(self, digest: str) -> Pipeline | None:
        return next((one for one in self._provider.pipelines.usable() if one.digest == digest), None)


class _ReadyPipeline:
    """A pipeline that is loaded; what it answers is counted."""

    def __init__(self, pipeline: Pipeline, requester: str, note_work: NoteWork, running: RunningAnswers) -> None:
        self._pipeline, self._requester, self._note_work, self._running = pipeline, requester, note_work, running

    def answer(self, request: Open, flow: Flow) -> AsyncGenerator[Event, None]:
        answer = self._pipeline.ask(request, flow)
        answer = metered(answer, self._pipeline, request, self._requester, self._note_work, is_new=True)
        return self._running.follow(answer, self._pipeline, self._requester)
