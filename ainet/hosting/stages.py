"""The stages that this node runs for itself and for members, within the owner's caps."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.api.node import StageFigures, WorkerState
from ainet.engine.worker_pool import Purpose, WorkerPool
from ainet.errors import AinetError, NotEnough, NotFound, Refused, StageLost, UsageError
from ainet.hosting.admission import admitted
from ainet.hosting.hosted_stage import HostedStage, figures_of, footprint_of, needed_memory
from ainet.hosting.parking import Parking
from ainet.hosting.progress import told_in_thread, told_while
from ainet.hosting.requests import LoadProgress, StageLoaded
from ainet.hosting.stage_meter import StageMeter
from ainet.links.standing import Standing
from ainet.models.shards import ShardStore
from ainet.placement.footprint import GPU_CONTEXT, OVERHEAD, STAGE_SECONDS
from ainet.resources import monitor
from ainet.resources.work import NoteWork, unmetered
from ainet.stages.actor import StageActor
from ainet.stages.protocol.spec import STATE_TOKENS
from ainet.tasks import Tasks
from ainet.timing import TIMING, Timing
from ainet.wire.interfaces import machine

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence

    from ainet.engine.engine import Engine, Worker
    from ainet.hosting.fetch import Fetcher
    from ainet.identity.identity import Identity
    from ainet.links.links import Links
    from ainet.models.manifest import Manifest
    from ainet.models.tensors import TensorStore
    from ainet.resources.allocator import Allocator
    from ainet.resources.memory import Memory
    from ainet.resources.speeds import Speeds
    from ainet.stages.protocol.address import StageAddress
    from ainet.stages.protocol.recovery import Recovery
    from ainet.stages.protocol.spec import StageSpec

LOOPBACK = "127.0.0.1"
#: Copies of earlier prompts take at most this share of the memory that is free when a stage was loaded.
KEPT_SHARE = 0.25
#: Bytes that llama.cpp writes for a position beside its keys and values.
CELL_BYTES = 12


class HostedStages:
    """Loads, links and closes stages on this node's engine.

    Parameters
    ----------
    identity
        Credentials of the data path.
    links
        On whose address members may connect to stages.
    engine, allocator, store, fetcher
        Workers, memory, tensors, and where missing tensors come from.
    speeds
        The speeds of models on this device.
    log
        For losses.
    note_work
        Takes note of what stages compute.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        links: Links,
        engine: Engine,
        allocator: Allocator,
        store: TensorStore,
        fetcher: Fetcher,
        speeds: Speeds,
        log: logging.Logger,
        note_work: NoteWork = unmetered,
        timing: Timing = TIMING,
    ) -> None:
        self._identity = identity
        self._links = links
        self.speeds = speeds
        self.engine = engine
        self._allocator = allocator
        self._shards = ShardStore(store, self._shards_in_use)
        self._fetcher = fetcher
        self._log = log
        self._timing = timing
        self._stages: dict[tuple[str, int], HostedStage] = {}
        #: Tells what stages compute.
        self.meter = StageMeter(self.stages, self._alive, note_work, every=timing.stages_measured)
        #: Models that are still loaded, though their stages have ended.
        self.parking = Parking(self._close, timing=timing)
        #: Who uses which worker of the engine.
        self.worker_pool = WorkerPool(engine, log, timing=timing)
        self._tasks = Tasks("The background work for stages failed", log)
        engine.on_worker_lost(self._lose_worker)

    def stages(self, pipeline: str | None = None) -> list[HostedStage]:
        """Return the stages here, of one pipeline or of all."""
        return [stage for stage in self._stages.values() if pipeline in (None, stage.spec.pipeline)]

    @property
    def worker_limit(self) -> int | None:
        """Most stages that can run here; None when the engine grows on demand."""
        return self.worker_pool.limit

    async def workers(self) -> list[WorkerState]:
        """Return the engine's workers and what they hold."""
        held = {stage.worker.address: stage for stage in self.stages() if stage.worker is not None}
        found = []
        for worker in self.engine.workers():
            stage = held.get(worker.address)
            layers = [stage.spec.first_layer, stage.spec.last_layer] if stage else []
            memory = await asyncio.to_thread(monitor.pss, worker.pid) if self.engine.own else 0
            on_gpu = stage is not None and stage.spec.gpu
            found.append(WorkerState(worker.pid, memory, stage.name if stage else None, layers, on_gpu))
        return found

    async def load(
        self,
        spec: StageSpec,
        manifest: Manifest,
        sources: Sequence[str],
        progress: Callable[[LoadProgress], None],
        *,
        local: bool,
    ) -> StageLoaded:
        """Load a stage and listen for its neighbours.

        Parameters
        ----------
        spec, manifest
            The model to load.
        sources
            Node ids that missing tensors can be fetched from.
        progress
            Told how far it is.
        local
            Whether every stage of the pipeline is on this node, and its requester too: nothing then listens beyond
            loopback, and the swarm's certificate is not needed.

        Raises
        ------
        NotEnough
            If memory or disk do not suffice within the owner's caps.
        CannotSplit, ModelError, NotFound, PeerUnreachable
            If the shard cannot be made.
        """
        self._check_new(spec)
        spec = self.admit(spec, manifest)
        what = f"{manifest.name} layers {spec.first_layer}–{spec.last_layer}"
        needed = needed_memory(manifest, spec)
        # Stages take turns, so threads are shared in time: a stage that comes when all are taken runs nevertheless.
        threads = min(spec.threads, self._allocator.free.threads)
        stage = await self._start_stage(spec, manifest, what, needed, threads, local=local)
        self._stages[spec.pipeline, spec.first_layer] = stage
        try:
            layers = (spec.first_layer, spec.last_layer)
            await asyncio.to_thread(self._shards.make_room, manifest, *layers)
            received = await self._fetcher.fetch(
                manifest, layers, sources, lambda done, total: progress(LoadProgress(f"fetching {what}", done, total))
            )
            is_new = stage.actor is None
            telling = told_in_thread(progress, f"writing {what}") if is_new else None
            shard = await asyncio.to_thread(self._shards.assemble, manifest, *layers, progress=telling)
            if is_new:
                progress(LoadProgress(f"loading {what}"))
                await self._host(stage)
            on_gpu = needed.gpu - GPU_CONTEXT if spec.gpu else 0
            loading = self._alive(stage, lambda actor: actor.load(spec, shard, on_gpu))
            address: StageAddress = await told_while(loading, stage, f"loading {what}", progress if is_new else None)
            stage.address = address
            if not local:
                for port in stage.ports:
                    self._links.channels.expose(address.host, port)
            figures = await self.meter.begin(stage)
            if not spec.gpu:
                buffers = sum(figures.buffers.values())
                stage.reservation.resize(memory=max(needed.host, buffers + OVERHEAD))
            self._note_speed(stage, figures.token_seconds)
            kept_tokens = self._reserve_kept(stage)
        except BaseException:
            await asyncio.shield(self._close(stage))
            raise
        self.worker_pool.keep_spare()
        reserved = stage.reservation
        return StageLoaded(address, received, reserved.memory, kept_tokens, figures.held, reserved.gpu_memory)

    async def link(
        self,
        pipeline: str,
        first_layer: int,
        previous: str,
        following: StageAddress | None,
        *,
        kept_tokens: int = 0,
        recovery: Recovery | None = None,
    ) -> None:
        """Connect a loaded stage to its neighbours and let it work.

        Parameters
        ----------
        pipeline, first_layer
            The stage.
        previous, following
            Node of the stage before; the stage after, None when there is no other one.
        kept_tokens
            Tokens of earlier prompts that every stage of the pipeline can keep.
        recovery
            Sessions of a lost pipeline that go on.

        Raises
        ------
        NotFound
            If the stage is not there any more.
        Refused
            If a neighbour is not a member.
        """
        for node in [previous, *([following.node] if following else [])]:
            if node != self._identity.id and self._identity.roster.member(node) is None:
                raise Refused(f"The device {node[:8]} is no member: no stage here is linked to it.")
        stage = self._stages.get((pipeline, first_layer))
        if stage is None or stage.actor is None:
            raise NotFound("The stage is not loaded here any more. Ask again.")
        stage.following = following
        stage.neighbours = {previous} | ({following.node} if following else set())
        if following is not None and self.engine.own:  # other workers may be on another machine than this node
            host, port = await self._links.forwarders.route(following.node, following.host, following.data_port)
            following = msgspec.structs.replace(following, host=host, data_port=port)
        link = self._links.open_link(previous, Standing.MEMBER)
        is_near = link is None or link.machine == machine()
        await self._alive(stage, lambda actor: actor.link(previous, following, kept_tokens, recovery, is_near=is_near))

    async def figures(self, pipeline: str) -> list[StageFigures]:
        """Return what the stages of a pipeline measured."""
        found = []
        for stage in self.stages(pipeline):
            if stage.actor is None or stage.address is None:
                continue
            state = await self.meter.measure(stage)
            self._note_speed(stage, state.token_seconds)
            found.append(figures_of(stage, state))
        return found

    async def close(self, pipeline: str, *, park: bool = False) -> None:
        """Unload the stages of a pipeline; none is fine, too. With `park`, their models stay for a while."""
        await asyncio.gather(*((self._park if park else self._close)(stage) for stage in self.stages(pipeline)))

    async def stop(self) -> None:
        await self.close_all()
        await self.meter.stop()
        await self.parking.clear()
        await self._tasks.stop()
        await self.worker_pool.stop()
        await self.speeds.flush()

    async def close_all(self, node_id: str | None = None) -> None:
        """Unload every stage, or those in which the node with this id takes part."""
        for stage in self.stages():
            if node_id in (None, stage.spec.owner, *stage.neighbours):
                await self._close(stage)

    def _check_new(self, spec: StageSpec) -> None:
        if (spec.pipeline, spec.first_layer) in self._stages:
            raise UsageError(f"Layers {spec.first_layer}–{spec.last_layer} of this pipeline are loaded here already.")

    async def _start_stage(
        self, spec: StageSpec, manifest: Manifest, what: str, needed: Memory, threads: int, *, local: bool
    ) -> HostedStage:
        """Return a stage with the memory that it needs, and maybe a model that was loaded before."""
        parked = self.parking.reclaim(spec, local=local)
        if parked is not None:
            stage = HostedStage(spec, manifest, parked.reservation)
            stage.lease, stage.worker = parked.lease, parked.worker
            stage.actor, stage.is_local = parked.actor, local
            return stage
        amounts = {"memory": needed.host, "gpu_memory": needed.gpu, "threads": threads}
        try:
            reservation = self._allocator.reserve(what, **amounts)
        except NotEnough:
            if not self.parking:
                raise
            await self.parking.clear()
            self._check_new(spec)
            reservation = self._allocator.reserve(what, **amounts)
        stage = HostedStage(spec, manifest, reservation)
        stage.is_local = local
        return stage

    async def _host(self, stage: HostedStage) -> None:
        """Find a worker for a stage."""
        try:
            stage.lease = await self.worker_pool.lease(Purpose.STAGE)
        except NotEnough:
            if not self.parking:
                raise
            await self.parking.clear()
            stage.lease = await self.worker_pool.lease(Purpose.STAGE)
        stage.worker = stage.lease.worker
        if self.engine.own:
            self._allocator.bind(stage.reservation, stage.worker.pid)
        host = self._stage_host(stage.worker, local=stage.is_local)
        credentials = self._identity.local_credentials() if stage.is_local else self._identity.credentials()
        arguments = (StageActor, credentials, self._identity.id, host)
        worker = stage.worker.address
        stage.actor = await self._alive(stage, lambda _: self.engine.actor(*arguments, address=worker))

    def admit(self, spec: StageSpec, manifest: Manifest) -> StageSpec:
        """Return what may be loaded of another node's wishes; see `admitted`.

        Raises
        ------
        UsageError
            Also if the pipeline belongs to another node.
        """
        if any(stage.spec.owner != spec.owner for stage in self.stages(spec.pipeline)):
            raise UsageError("A pipeline of this name belongs to another node.")
        return admitted(spec, manifest, self._allocator.caps)

    def _note_speed(self, stage: HostedStage, seconds: float) -> None:
        """Note what a token took, for the next plan."""
        spec = stage.spec
        read = footprint_of(stage.manifest, spec).read(spec.first_layer, spec.last_layer)
        if seconds > 0 and not spec.experts_on_host:  # that is a mixture of two speeds
            reading = max(seconds - STAGE_SECONDS, seconds / 4)
            self.speeds.note(spec.model, read / reading / (1 if spec.gpu else spec.threads), gpu=spec.gpu)

    def _reserve_kept(self, stage: HostedStage) -> int:
        """Reserve memory for copies of earlier prompts, where there is plenty; return the tokens that they may have."""
        spec = stage.spec
        manifest, layers = stage.manifest, (spec.first_layer, spec.last_layer)
        token = manifest.token_bytes(*layers) + CELL_BYTES + manifest.state_bytes(*layers) // STATE_TOKENS
        tokens = min(spec.kept_tokens, int(KEPT_SHARE * self._allocator.free.memory) // token)
        stage.reservation.resize(memory=stage.reservation.memory + tokens * token)
        return tokens

    def _shards_in_use(self) -> list[tuple[Manifest, int, int]]:
        return [(stage.manifest, stage.spec.first_layer, stage.spec.last_layer) for stage in self.stages()]

    def _stage_host(self, worker: Worker, *, local: bool) -> str:
        """Return the address on which neighbours and requesters reach a stage on `worker`."""
        if not self.engine.own:  # its machine may be another one
            address = worker.address.partition("://")[2]
        elif local:
            return LOOPBACK
        else:
            address = self._links.address
        return address.rpartition(":")[0].strip("[]")

    def _holding(self) -> list[HostedStage]:
        """Return the stages, also those that have ended but still hold a model."""
        return [*self.stages(), *self.parking.stages]

    async def _alive(self, stage: HostedStage, call: Callable[[Any], Any]) -> Any:
        """Await the answer to a call of a stage's actor, but not longer than its worker lives.

        Raises
        ------
        StageLost
            If the worker is lost first.
        """
        answer = asyncio.ensure_future(_answer(stage.actor, call))
        lost = asyncio.ensure_future(stage.lost.wait())
        try:
            await asyncio.wait((answer, lost), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            reason: object = "its process ended"
        except AinetError:
            raise
        except (OSError, RuntimeError) as exc:  # so Dask says that the worker cannot be reached
            reason = exc
        finally:
            answer.cancel()
            lost.cancel()
        self._log.warning("The worker of %s layers %s failed: %r", stage.name, stage.layers, reason)
        raise StageLost(f"The worker that held layers {stage.layers} of {stage.name} was lost. Ask again.")

    async def _park(self, stage: HostedStage) -> None:
        """End a stage, but keep its model if possible."""
        is_kept = False
        if stage.actor is not None and stage.address is not None:
            try:
                async with asyncio.timeout(self._timing.stage_close):
                    await self.meter.last(stage, stage.actor)
                    is_kept = await self._alive(stage, lambda actor: actor.park())
            except (AinetError, TimeoutError) as exc:
                self._log.info("Layers %s of %s are not kept: %s", stage.layers, stage.name, exc or "no answer")
            except BaseException:  # nobody may ask a second time
                self._tasks.spawn(self._close(stage))
                raise
        if not is_kept or stage.lost.is_set():
            await self._close(stage)
            return
        self._leave(stage)
        stage.address = None
        self.parking.keep(stage)

    async def _close(self, stage: HostedStage) -> None:
        ended, stage.actor = stage.actor, None
        try:
            if ended is not None:
                async with asyncio.timeout(self._timing.stage_close):
                    await self.meter.last(stage, ended)
                    await self._alive(stage, lambda _: ended.close())
        except (AinetError, TimeoutError) as exc:
            self._log.info("Layers %s of %s end with their worker: %s", stage.layers, stage.name, exc or "no answer")
            if stage.worker is not None and not stage.lost.is_set():  # what it holds must not outlive the reservation
                await self.engine.retire(stage.worker.address)
        finally:
            self._forget(stage)

    def _lose_worker(self, address: str) -> None:
        for stage in self._holding():
            if stage.worker is not None and stage.worker.address == address:
                self.parking.lose(stage)
                self._log.warning("The worker that held layers %s of %s was lost.", stage.layers, stage.name)
                stage.lost.set()
                self._forget(stage)

    def _forget(self, stage: HostedStage) -> None:
        self._leave(stage)
        stage.reservation.release()
        if stage.lease is not None:
            stage.lease.release()

    def _leave(self, stage: HostedStage) -> None:
        """Take a stage out of its pipeline."""
        self._stages.pop((stage.spec.pipeline, stage.spec.first_layer), None)
        for port in stage.ports:
            self._links.channels.conceal(port)
        if stage.following is not None:
            self._tasks.spawn(self._links.forwarders.close(stage.following.node, stage.following.data_port))
            stage.following = None


async def _answer(actor: Any, call: Callable[[Any], Any]) -> Any:
    return await call(actor)  # an actor whose worker is lost raises as soon as it is called
