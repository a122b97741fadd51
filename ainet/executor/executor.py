"""The model executor: finds a model, places it, loads pipelines when they are needed, asks them, unloads idle ones."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ainet.errors import AinetError, NotFound, StageLost, UsageError
from ainet.executor.fetch import REPORT_SECONDS
from ainet.executor.messages import DescribeNode, FindModel, LoadProgress, ModelFound
from ainet.executor.models.manifest import Manifest
from ainet.executor.pipeline import Pipeline
from ainet.executor.pipelines import Pipelines
from ainet.executor.placement import NodeOffer, Plan, Planner
from ainet.executor.transcript import Transcript

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Callable

    from ainet.config import AinetConfig
    from ainet.executor.models.catalog import ModelCatalog
    from ainet.executor.models.tensors import TensorStore
    from ainet.executor.request import GenerateRequest
    from ainet.executor.stages.service import StageService
    from ainet.identity import Identity
    from ainet.network import Links, MemberState
    from ainet.resources.allocator import Allocator

    Progress = Callable[[LoadProgress], None]

#: A member that does not describe itself within this time (s) is left out of a plan.
DESCRIBE_SECONDS = 5.0
#: No device reads more bytes of memory in a second.
MOST_SPEED = 1e15


class Planned(NamedTuple):
    """A plan, the nodes (by id) that hold the model, and the bytes that are free on each node now."""

    plan: Plan
    sources: list[str]
    free: dict[str, int]


class Executor:
    """Runs models for this node's owner, on this node and on members.

    Parameters
    ----------
    config
        Context window, chunk, queue, idle time, default model.
    identity, links
        This node and the way to members.
    service, allocator
        The stages and the memory of this node.
    store, catalog
        Tensors and models of this node.
    speed
        Bytes of weights that one thread reads in a second, measured.
    log
        For pipelines that are unloaded or lost.
    """

    def __init__(
        self,
        *,
        config: AinetConfig,
        identity: Identity,
        links: Links,
        service: StageService,
        allocator: Allocator,
        store: TensorStore,
        catalog: ModelCatalog,
        speed: float,
        log: logging.Logger,
    ) -> None:
        self._config = config
        self._identity = identity
        self._links = links
        self._service = service
        self._allocator = allocator
        self._store = store
        self._catalog = catalog
        self._speed = speed
        self._log = log
        #: What is loaded.
        self.pipelines = Pipelines(config, log)
        self._loading: dict[asyncio.Task[Pipeline], str] = {}

    async def start(self) -> None:
        """Begin to look for idle pipelines."""
        await self.pipelines.start()

    async def stop(self) -> None:
        """Unload everything."""
        await self.unload()
        await self.pipelines.stop()

    async def manifest(self, name: str | None, progress: Progress = lambda _: None) -> Manifest:
        """Return the model with this name, path or digest, from this node or from a member.

        Raises
        ------
        NotFound
            If nobody has it.
        ModelError
            If its file is damaged.
        """
        name = name or self._config.model

        told = 0.0

        def report(done: int, total: int) -> None:  # called by the reading thread
            nonlocal told
            now = time.monotonic()
            if now - told >= REPORT_SECONDS:
                told = now
                loop.call_soon_threadsafe(progress, LoadProgress(f"reading {name}", done, total))

        loop = asyncio.get_running_loop()
        try:
            return await asyncio.to_thread(self._catalog.manifest, name, progress=report)
        except NotFound as exc:
            found = await asyncio.gather(*(self._ask_for(state, name, progress) for state in self._connected()))
            for manifest in found:
                if manifest is not None:
                    await asyncio.to_thread(self._store.save_manifest, manifest)
                    return manifest
            if found:
                msg = f"{exc.message} None of the {len(found)} members that can be reached has it."
                raise NotFound(msg) from None
            raise

    async def offer(self, digest: str) -> NodeOffer:
        """Return what this node can give to a pipeline of the model with this digest."""
        holds = await asyncio.to_thread(self._holds, digest)
        free = self._allocator.free
        return NodeOffer(
            node=self._identity.id,
            name=self._identity.name,
            memory=free.memory,
            threads=self._config.stage_threads or self._allocator.caps.threads,
            speed=self._speed,
            workers=self._service.worker_limit,
            models=[digest] if holds else [],
            gpu=self._allocator.caps.gpu,
        )

    async def plan(self, manifest: Manifest, stages: int | None = None) -> Planned:
        """Place the model where it fits once idle pipelines are unloaded; nothing is loaded or unloaded yet.

        Raises
        ------
        NotEnough, CannotSplit
            With the numbers, or the reason.
        """
        if stages is not None and stages < 1:
            msg = f"stages is {stages}; it must be at least 1."
            raise UsageError(msg)
        n_ctx = min(self._config.context_window, manifest.n_ctx_train)
        sizes = {"n_ctx": n_ctx, "n_ubatch": self._config.chunk}
        idle = self.pipelines.idle_memory()

        def with_idle(offer: NodeOffer) -> NodeOffer:
            return msgspec.structs.replace(offer, memory=offer.memory + idle.get(offer.node, 0))

        own = await self.offer(manifest.digest)
        alone = Planner(manifest, [with_idle(own)], **sizes)
        if stages is None and own.models and alone.fits(with_idle(own)):  # no need to ask anybody
            return Planned(alone.plan(), [own.node], {own.node: own.memory})
        others = await asyncio.gather(*(self._describe(state, manifest.digest) for state in self._connected()))
        offers = [own, *(offer for offer in others if offer is not None)]
        planner = Planner(manifest, [with_idle(offer) for offer in offers], **sizes)
        plan = await asyncio.to_thread(planner.plan, stages)
        sources = [offer.node for offer in offers if offer.models]
        return Planned(plan, sources, {offer.node: offer.memory for offer in offers})

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[dict[str, Any], None]:
        """Answer `request`; yields events. Closing the generator cancels the session on every stage.

        Raises
        ------
        AinetError
            Whatever prevents an answer.
        """
        begun = time.monotonic()
        opened = request.to_open()
        reports: asyncio.Queue[LoadProgress | None] = asyncio.Queue()
        loading = asyncio.create_task(self._ready(request.model, request.stages, reports.put_nowait))
        self._loading[loading] = request.model or self._config.model
        loading.add_done_callback(lambda _: reports.put_nowait(None))
        try:
            while (report := await reports.get()) is not None:
                yield {"event": "progress", "text": report.text, "done": report.done, "total": report.total}
            if loading.cancelled():
                msg = "The model was unloaded while it was being loaded."
                raise StageLost(msg)
            pipeline = loading.result()
            transcript = Transcript(pipeline, opened, begun)
            try:
                async with contextlib.aclosing(pipeline.ask(opened)) as events:
                    async for event in events:
                        for shown in transcript.take(event):
                            yield shown
            except StageLost:
                self.pipelines.abandon(pipeline)  # the next question is placed again
                raise
        finally:
            await self._release(loading)

    async def unload(self, name: str | None = None) -> list[str]:
        """Unload the model with this name or digest, or all, also what is being loaded; returns the models' names."""
        stopped = [task for task, asked in self._loading.items() if not task.done() and name in (None, asked)]
        names = [self._loading[task] for task in stopped]
        for task in stopped:
            task.cancel()
        await asyncio.gather(*stopped, return_exceptions=True)
        return names + await self.pipelines.unload(name)

    async def _ready(self, name: str | None, stages: int | None, progress: Progress) -> Pipeline:
        """Return a pipeline that is loaded and claimed by the caller."""
        manifest = await self.manifest(name, progress)
        async with self.pipelines.alone(manifest.digest, stages):
            pipeline = self.pipelines.find(manifest.digest, stages)
            if pipeline is None:
                await self.pipelines.settle()
                plan, sources, free = await self.plan(manifest, stages)
                await self.pipelines.make_room(plan, free)
                pipeline = Pipeline(
                    plan,
                    manifest,
                    sources,
                    unforced=stages is None,
                    identity=self._identity,
                    service=self._service,
                    links=self._links,
                    queue=self._config.queue,
                    log=self._log,
                )
                await pipeline.load(progress)
                self.pipelines.add(pipeline)
            pipeline.claim(name or manifest.name)
            return pipeline

    async def _release(self, loading: asyncio.Task[Pipeline]) -> None:
        if not loading.done():
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        del self._loading[loading]
        if not loading.cancelled() and loading.exception() is None:
            loading.result().release()

    def _holds(self, digest: str) -> bool:
        try:
            manifest = self._store.manifest(digest)
        except NotFound:
            return False
        return not self._store.missing(manifest, 0, manifest.n_layers - 1)

    def _connected(self) -> list[MemberState]:
        return [state for state in self._links.members() if state.connected and not state.is_self]

    async def _describe(self, state: MemberState, digest: str) -> NodeOffer | None:
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                link = await self._links.connect(state.id)
                offer = await link.request(DescribeNode(digest))
        except (AinetError, TimeoutError) as exc:
            self._log.info("%s is left out of the plan: %s", state.name, exc or "no answer")
            return None
        if not (0 < offer.speed < MOST_SPEED):
            self._log.warning("%s is left out of the plan: it says that it reads %s B/s.", state.name, offer.speed)
            return None
        # A member speaks for itself only.
        return msgspec.structs.replace(offer, node=state.id, name=state.name)

    async def _ask_for(self, state: MemberState, name: str, progress: Progress) -> Manifest | None:
        """Return the model if the member has it; as long as it says that it still looks, it is waited for."""
        found = ModelFound(b"")
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS) as patience:
                link = await self._links.connect(state.id)
                async with contextlib.aclosing(link.stream(FindModel(name))) as items:
                    async for item in items:
                        patience.reschedule(asyncio.get_running_loop().time() + DESCRIBE_SECONDS)
                        if isinstance(item, LoadProgress):
                            progress(item)
                        else:
                            found = item
            return await asyncio.to_thread(Manifest.decode, found.manifest) if found.manifest else None
        except (AinetError, TimeoutError) as exc:
            self._log.info("%s does not say whether it has %s: %s", state.name, name, exc or "no answer")
            return None
