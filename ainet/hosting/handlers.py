"""Answers to members that ask this node to take part in a pipeline."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ainet.errors import NotFound, ProtocolError, Refused
from ainet.hosting.absence import AbsenceWatch
from ainet.hosting.requests import (
    PIECE,
    CloseStages,
    DescribeStages,
    DescribeWorkers,
    FindModel,
    LinkStage,
    LoadProgress,
    LoadStage,
    ModelFound,
    Piece,
    ReadTensor,
    StageLoaded,
    StageStates,
    WorkerStates,
    load_lease,
)
from ainet.models.manifest import Manifest
from ainet.resources.work import NoteWork, Work, unmetered
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ainet.hosting.stages import HostedStages
    from ainet.links.link import PeerLink
    from ainet.links.links import Links
    from ainet.models.catalog import ModelCatalog
    from ainet.models.tensors import Progress, TensorStore
    from ainet.swarm.leases import Leases


class PeerHandlers:
    """Answers the requests of `ainet.hosting.requests`. Only the owner of a pipeline may touch its stages.

    `note_work` takes note of what is sent.
    """

    def __init__(
        self,
        *,
        links: Links,
        leases: Leases,
        service: HostedStages,
        store: TensorStore,
        catalog: ModelCatalog,
        note_work: NoteWork = unmetered,
        timing: Timing = TIMING,
    ) -> None:
        self._links = links
        self._leases = leases
        self._service = service
        self._store = store
        self._catalog = catalog
        self._note_work = note_work
        self._timing = timing
        self._owners = AbsenceWatch(links, timing.owner_grace, self._unload)
        # One file is hashed at a time, and not in the threads that everything else needs.
        self._finder = ThreadPoolExecutor(1, thread_name_prefix="finding a model")
        links.handle(FindModel, self.find_model)
        links.handle(ReadTensor, self.read_tensor)
        links.handle(LoadStage, self.load_stage)
        links.handle(LinkStage, self.link_stage)
        links.handle(CloseStages, self.close_stages)
        links.handle(DescribeStages, self.describe_stages)
        links.handle(DescribeWorkers, self.describe_workers)

    async def stop(self) -> None:
        """Stop waiting for owners to come back, and looking for models."""
        await self._owners.stop()
        self._finder.shutdown(wait=False, cancel_futures=True)

    async def find_model(self, _link: PeerLink, request: FindModel) -> AsyncGenerator[LoadProgress | ModelFound, None]:
        """Return the manifest of a model that this node has; paths and downloads are the asker's own business.

        The file of a model that is asked for the first time is hashed, which takes minutes for a large one.
        """
        hashed = (0, 0)

        def count(done: int, total: int) -> None:
            nonlocal hashed
            hashed = done, total

        finding = asyncio.get_running_loop().run_in_executor(self._finder, self._find, request.name, count)
        try:
            while not (await asyncio.wait([finding], timeout=self._timing.reading_told))[0]:
                yield LoadProgress(f"{self._links.identity.name} looks for {request.name} in its files", *hashed)
            yield finding.result()
        finally:
            finding.cancel()  # unless it has begun

    async def read_tensor(self, link: PeerLink, request: ReadTensor) -> Piece:
        """Return a piece of a tensor."""
        if not (0 < request.length <= PIECE and request.offset >= 0):
            raise ProtocolError(f"A piece of {request.length} bytes at {request.offset} was asked for.")
        data = await asyncio.to_thread(self._store.read, request.hash, request.offset, request.length)
        self._note_work(Work("transfer", link.peer_id, size=len(data)))
        return Piece(data)

    async def load_stage(self, link: PeerLink, request: LoadStage) -> AsyncGenerator[LoadProgress | StageLoaded, None]:
        """Load a stage for the asking member, telling how far it is."""
        if request.spec.owner != link.peer_id:
            raise Refused("A stage is loaded for the node that asks, not for another one.")
        if request.lease is not None:
            self._leases.check(load_lease(request.spec.model), request.lease, link.peer_id)
        manifest = await asyncio.to_thread(_decode, request)
        self._service.admit(request.spec, manifest)  # before anything of it is kept
        await asyncio.to_thread(self._store.save_manifest, manifest)
        await self._owners.watch(link)
        reports: asyncio.Queue[LoadProgress | None] = asyncio.Queue()
        loading = asyncio.create_task(
            self._service.load(request.spec, manifest, request.sources, reports.put_nowait, local=False)
        )
        loading.add_done_callback(lambda _: reports.put_nowait(None))
        try:
            while (report := await reports.get()) is not None:
                yield report
        finally:
            loading.cancel()  # unless it is done
            await asyncio.gather(loading, return_exceptions=True)
        yield loading.result()

    async def link_stage(self, link: PeerLink, request: LinkStage) -> None:
        """Connect a stage to its neighbours."""
        self._check_owner(link, request.pipeline)
        await self._service.link(
            request.pipeline,
            request.first_layer,
            request.previous,
            request.following,
            kept_tokens=request.kept_tokens,
            recovery=request.recovery,
        )

    async def close_stages(self, link: PeerLink, request: CloseStages) -> None:
        """Unload what a pipeline has here."""
        self._check_owner(link, request.pipeline)
        await self._service.close(request.pipeline, park=request.park)

    async def describe_stages(self, link: PeerLink, request: DescribeStages) -> StageStates:
        """Return what a pipeline's stages measured."""
        self._check_owner(link, request.pipeline)
        return StageStates(await self._service.figures(request.pipeline))

    async def describe_workers(self, _link: PeerLink, _request: DescribeWorkers) -> WorkerStates:
        """Return this node's workers and what they hold."""
        return WorkerStates(await self._service.workers())

    def _check_owner(self, link: PeerLink, pipeline: str) -> None:
        if any(stage.spec.owner != link.peer_id for stage in self._service.stages(pipeline)):
            raise Refused("This pipeline belongs to another node.")

    def _find(self, name: str, progress: Progress) -> ModelFound:
        try:
            return ModelFound(self._catalog.known(name, progress=progress).encode())
        except NotFound:
            return ModelFound(b"")

    async def _unload(self, owner: str) -> None:
        for pipeline in {stage.spec.pipeline for stage in self._service.stages() if stage.spec.owner == owner}:
            await self._service.close(pipeline)


def _decode(request: LoadStage) -> Manifest:
    manifest = Manifest.decode(request.manifest)
    if manifest.digest != request.spec.model:
        raise ProtocolError("The manifest is not that of the model.")
    return manifest
