"""The model executor: finds a model, places it, loads pipelines when they are needed, asks them, unloads idle ones."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from ainet.errors import AinetError, NotEnough, NotFound, StageLost, UsageError
from ainet.executor.fetch import REPORT_SECONDS
from ainet.executor.messages import DescribeNode, FindModel, LoadProgress
from ainet.executor.models.manifest import Manifest
from ainet.executor.pipeline import Pipeline
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
    from ainet.network import Links
    from ainet.resources.allocator import Allocator

    Progress = Callable[[LoadProgress], None]

#: A member that does not describe itself within this time (s) is left out of a plan.
DESCRIBE_SECONDS = 5.0
#: Offers from members' answers about themselves, and idle pipelines, are looked at this often (s).
SWEEP_SECONDS = 5.0


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
        self._pipelines: dict[tuple[str, int | None], Pipeline] = {}
        self._locks: dict[tuple[str, int | None], asyncio.Lock] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look for idle pipelines."""
        self._sweeper = asyncio.create_task(self._sweep(), name="idle pipelines")

    async def stop(self) -> None:
        """Unload everything."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await self.unload()
        await self._settle()

    def pipelines(self) -> list[Pipeline]:
        """Return the pipelines that this node has loaded."""
        return [pipeline for pipeline in self._pipelines.values() if pipeline.usable]

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
            found = await asyncio.gather(*(self._ask_for(node, name) for node in self._connected()))
            for manifest in found:
                if manifest is not None:
                    await asyncio.to_thread(self._store.save_manifest, manifest)
                    return manifest
            if found:
                msg = f"{exc.message} None of the {len(found)} members that can be reached has it."
                raise NotFound(msg) from None
            raise

    def offer(self, digest: str) -> NodeOffer:
        """Return what this node can give to a pipeline of the model with this digest."""
        free = self._allocator.free
        return NodeOffer(
            node=self._identity.id,
            name=self._identity.name,
            memory=free.memory,
            threads=self._config.stage_threads or self._allocator.caps.threads,
            speed=self._speed,
            workers=self._service.worker_limit,
            models=[digest] if self._holds(digest) else [],
            gpu=self._allocator.caps.gpu,
        )

    async def plan(self, manifest: Manifest, stages: int | None = None) -> tuple[Plan, list[str]]:
        """Place the model; returns the plan and the nodes that hold the model.

        Raises
        ------
        NotEnough, CannotSplit
            With the numbers, or the reason.
        """
        if stages is not None and stages < 1:
            msg = f"stages is {stages}; it must be at least 1."
            raise UsageError(msg)
        while True:
            try:
                return await self._plan(manifest, stages)
            except NotEnough:
                idle = [(key, pipeline) for key, pipeline in self._pipelines.items() if pipeline.idle]
                if not idle:
                    raise
                key, oldest = min(idle, key=lambda item: item[1].last_used)
                self._log.info("%s is unloaded: its memory is wanted.", oldest.plan.name)
                await self._drop(key)

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
        loading.add_done_callback(lambda _: reports.put_nowait(None))
        try:
            while (report := await reports.get()) is not None:
                yield {"event": "progress", "text": report.text, "done": report.done, "total": report.total}
        finally:
            if not loading.done():
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)
        key, pipeline = loading.result()
        transcript = Transcript(pipeline, opened, begun)
        events = pipeline.ask(opened)
        try:
            async for event in events:
                for shown in transcript.take(event):
                    yield shown
        except StageLost:
            if self._pipelines.get(key) is pipeline:  # the next question is placed again
                self._abandon(key)
            raise
        finally:
            await events.aclose()

    async def unload(self, digest: str | None = None) -> list[str]:
        """Unload the pipelines of one model, or all; returns the models' names."""
        found = [key for key in self._pipelines if digest in (None, key[0])]
        names = [self._pipelines[key].plan.name for key in found]
        await asyncio.gather(*(self._drop(key) for key in found))
        return names

    async def _ready(self, name: str | None, stages: int | None, progress: Progress) -> tuple[Any, Pipeline]:
        manifest = await self.manifest(name, progress)
        key = (manifest.digest, stages)
        async with self._locks.setdefault(key, asyncio.Lock()):
            pipeline = self._pipelines.get(key)
            if pipeline is not None and pipeline.usable:
                return key, pipeline
            await self._drop(key)
            await self._settle()
            plan, sources = await self.plan(manifest, stages)
            pipeline = Pipeline(
                plan,
                manifest,
                sources,
                identity=self._identity,
                service=self._service,
                links=self._links,
                queue=self._config.queue,
                log=self._log,
            )
            await pipeline.load(progress)
            self._pipelines[key] = pipeline
            return key, pipeline

    async def _plan(self, manifest: Manifest, stages: int | None) -> tuple[Plan, list[str]]:
        n_ctx = min(self._config.context_window, manifest.n_ctx_train)
        sizes = {"n_ctx": n_ctx, "n_ubatch": self._config.chunk}
        own = self.offer(manifest.digest)
        alone = Planner(manifest, [own], **sizes)
        if stages is None and own.models and alone.fits(own):  # no need to ask anybody
            return alone.plan(), [own.node]
        others = await asyncio.gather(*(self._describe(node, manifest.digest) for node in self._connected()))
        offers = [own, *(offer for offer in others if offer is not None)]
        sources = [offer.node for offer in offers if offer.models]
        return Planner(manifest, offers, **sizes).plan(stages), sources

    def _holds(self, digest: str) -> bool:
        try:
            manifest = self._store.manifest(digest)
        except NotFound:
            return False
        return not self._store.missing(manifest, 0, manifest.n_layers - 1)

    def _connected(self) -> list[str]:
        return [member.id for member in self._links.members() if member.id != self._identity.id]

    async def _describe(self, node: str, digest: str) -> NodeOffer | None:
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                link = await self._links.connect(node)
                return await link.request(DescribeNode(digest))
        except (AinetError, TimeoutError) as exc:
            self._log.info("%s is left out of the plan: %s", node[:8], exc)
            return None

    async def _ask_for(self, node: str, name: str) -> Manifest | None:
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                link = await self._links.connect(node)
                found = await link.request(FindModel(name))
            return Manifest.decode(found.manifest) if found.manifest else None
        except (AinetError, TimeoutError) as exc:
            self._log.info("%s does not say whether it has %s: %s", node[:8], name, exc)
            return None

    async def _drop(self, key: tuple[str, int | None]) -> None:
        pipeline = self._pipelines.pop(key, None)
        if pipeline is not None:
            await pipeline.close()

    def _abandon(self, key: tuple[str, int | None]) -> None:
        """Unload a broken pipeline without keeping the user waiting for what it takes."""
        task = asyncio.create_task(self._drop(key))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _settle(self) -> None:
        """Wait until abandoned pipelines have given their memory back."""
        if self._closing:
            await asyncio.wait(self._closing)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, self._config.idle_seconds))
            now = time.monotonic()
            for key, pipeline in list(self._pipelines.items()):
                if not pipeline.usable or (pipeline.idle and now - pipeline.last_used > self._config.idle_seconds):
                    self._log.info("%s is unloaded: nobody uses it.", pipeline.plan.name)
                    with contextlib.suppress(AinetError):
                        await self._drop(key)
