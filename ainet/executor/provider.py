"""Provides pipelines: finds what is loaded, or places and loads a model, and unloads what nobody uses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ainet.errors import LeaseLost, NotEnough, NotFound
from ainet.executor.draft_model import DraftModel
from ainet.executor.loads import Loads
from ainet.executor.peer_pipeline import PeerPipeline
from ainet.executor.pipeline import Pipeline, PipelineOptions
from ainet.executor.pool import PipelinePool
from ainet.executor.routing import Router
from ainet.hosting.requests import LoadProgress, load_lease
from ainet.placement.footprint import goes_alone
from ainet.tasks import Tasks
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence

    from ainet.api.generate import GenerateRequest
    from ainet.api.models import ModelSettings, Plan
    from ainet.config import AinetConfig
    from ainet.executor.directory import PipelineDirectory, ReachablePipeline
    from ainet.executor.finder import ModelFinder
    from ainet.executor.provided import Provided
    from ainet.hosting.stages import HostedStages
    from ainet.identity.identity import Identity
    from ainet.links.links import Links
    from ainet.models.manifest import Manifest
    from ainet.placement.capacity import NodeCapacity
    from ainet.placement.survey import Planned, Survey
    from ainet.swarm.leases import Leases

    Progress = Callable[[LoadProgress], None]

#: A model is placed anew this often when others place it at the same time.
ATTEMPTS = 5
#: A stage has become faster or slower when its time changed by this share.
DRIFT = 1 / 3
#: A model is placed anew for a token that takes this share of the time.
WORTH = 0.9


class Provider:
    """Provides pipelines for this node's owner, on this node and on members.

    Parameters
    ----------
    config
        Idle time, default model.
    identity, links
        This node and the way to members.
    service
        The stages of this node.
    finder, survey
        The places of models, and the folder for new ones.
    directory, leases
        The pipelines of members; the right to place a model over several devices.
    log
        For pipelines that are unloaded or lost.
    """

    def __init__(
        self,
        *,
        config: AinetConfig,
        identity: Identity,
        links: Links,
        service: HostedStages,
        finder: ModelFinder,
        survey: Survey,
        directory: PipelineDirectory,
        leases: Leases,
        log: logging.Logger,
        timing: Timing = TIMING,
    ) -> None:
        self._config = config
        self._identity = identity
        self._links = links
        self._service = service
        self.finder = finder
        self._survey = survey
        self._directory = directory
        self._leases = leases
        self._log = log
        self._timing = timing
        #: The pipelines that are loaded.
        self.pipelines = PipelinePool(
            config,
            log,
            is_superseded=lambda pipeline: self._better(pipeline) is not None,
            is_outdated=self._is_outdated,
            changed=lambda usable: directory.publish(one for one in usable if one.unforced),
            timing=timing,
        )
        self._drafts = Tasks("A model that guesses was not loaded", log)
        self.router = Router(config, survey, load=self._load_replica, avoid=directory.avoid, log=log, timing=timing)
        self._loading: dict[asyncio.Task[Provided], str] = {}
        #: What is being loaded, and how far that is.
        self.loads = Loads(log)

    async def start(self) -> None:
        """Begin to look for idle pipelines."""
        await self.pipelines.start()

    async def stop(self) -> None:
        await self.unload()
        await self.pipelines.stop()
        await self._drafts.stop()

    async def manifest(self, name: str | None, progress: Progress = lambda _: None) -> Manifest:
        """Return the model with this name, path or digest, the default one for None; see `ModelFinder.manifest`."""
        return await self.finder.manifest(name or self._config.model, progress)

    async def settings(self, name: str | None) -> ModelSettings:
        """Return what the model with this name, or the default one, is asked with; see `ModelFinder.settings`."""
        return await self.finder.settings(name or self._config.model)

    def slots(self, manifest: Manifest) -> int:
        """Return how many sessions of a model go on at once."""
        return 1 if goes_alone(manifest, exact=self._options.exact) else self._options.sessions

    async def plan(self, manifest: Manifest, stages: int | None = None, *, private: bool = False) -> Planned:
        """Place the model where it fits once idle pipelines are unloaded; see `Survey.plan`."""
        return await self._survey.plan(manifest, stages, self.pipelines.idle_memory(), private=private)

    async def plan_for(
        self, manifest: Manifest, stages: int | None, capacities: Sequence[NodeCapacity], *, private: bool = False
    ) -> Plan:
        """Place the model on devices that need not exist; see `Survey.plan_for`."""
        return await self._survey.plan_for(manifest, stages, capacities, private=private)

    def obtain(self, request: GenerateRequest, text: str, progress: Progress) -> asyncio.Task[Provided]:
        """Begin to find or load a pipeline for `request`; give it back to `finish`, whatever becomes of it.

        Parameters
        ----------
        text
            The question: whoever has read its beginning answers soonest.
        progress
            Told how far it is.
        """
        name = request.model or self._config.model
        tell, done = self.loads.follow(name, progress)
        loading = asyncio.create_task(self._ready(request, text, tell))
        loading.add_done_callback(done)
        self._loading[loading] = name
        return loading

    async def finish(self, loading: asyncio.Task[Provided]) -> None:
        """Take `begin` back: nobody needs what it gives any more."""
        if not loading.done():
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        del self._loading[loading]
        if not loading.cancelled() and loading.exception() is None:
            loading.result().release()

    def note(self, pipeline: Provided, text: str) -> None:
        """Note that the pipeline has read `text`."""
        self.router.note(pipeline.digest, text, pipeline.name)

    def announced(self, name: str) -> Pipeline:
        """Return the pipeline with this name, of those that members may ask.

        Raises
        ------
        NotFound
            It is not loaded any more.
        """
        pipeline = next((one for one in self.pipelines.usable() if one.name == name and one.unforced), None)
        if pipeline is None:
            raise NotFound("That pipeline is not loaded any more.")
        return pipeline

    async def unload(self, name: str | None = None) -> list[str]:
        """Unload the model with this name or digest, or all, also what is being loaded; returns the models' names."""
        stopped = [task for task, asked in self._loading.items() if not task.done() and name in (None, asked)]
        names = [self._loading[task] for task in stopped]
        for task in stopped:
            task.cancel()
        called = None if name is None else self.pipelines.called(name)
        await asyncio.gather(*stopped, self.router.stop(called), return_exceptions=True)
        return names + await self.pipelines.unload(called)

    async def _ready(self, request: GenerateRequest, text: str, progress: Progress) -> Provided:
        """Return a pipeline that is loaded and claimed by the caller."""
        name, stages = request.model, request.stages
        manifest = await self.manifest(name, progress)
        async with self.pipelines.alone(manifest.digest, stages, private=request.private):
            for left in reversed(range(ATTEMPTS)):
                try:
                    found = None if request.private else await self._find(manifest, stages, text)
                    if request.private:
                        found = await self._private(manifest, progress)
                    elif found is None:
                        found = await self._place(manifest, stages, text, progress)
                except LeaseLost as exc:
                    self._log.info("%s is placed again: %s", manifest.name, exc.message)
                    if not left:
                        raise
                    continue
                found.claim(name or manifest.name)
                return found
        raise AssertionError

    @property
    def _options(self) -> PipelineOptions:
        return PipelineOptions.of(self._config)

    async def _find(self, manifest: Manifest, stages: int | None, text: str) -> Provided | None:
        """Return what is loaded already, by this node or by members, and answers `text` soonest."""
        own = self.pipelines.find(manifest.digest, stages)
        if stages is not None:
            return own[0] if own else None
        for pipeline in own:
            if (better := self._better(pipeline)) is not None:
                return self._borrow(better)
        if not own and await self._survey.fits_here(manifest, self.pipelines.idle_memory()):
            return None
        reachable = self._directory.find(manifest.digest, self._survey.sizes(manifest))
        # Of pipelines over several devices one is enough: others would compete for the same ones.
        able = [one for one in reachable if one.is_whole or (not own and one is reachable[0])]
        if not own and not able:
            return None
        return await self.router.choose(manifest, text, own, [self._borrow(one) for one in able])

    def _better(self, pipeline: Pipeline) -> ReachablePipeline | None:
        """Return a member's pipeline that answers in place of this one: both were loaded while they did not meet."""
        if pipeline.is_local or pipeline.is_replica or not pipeline.unforced:
            return None
        plan = pipeline.plan
        reachable = self._directory.find(plan.model, self._survey.sizes(pipeline.manifest))
        return reachable[0] if reachable and reachable[0].rank < (plan.seconds, pipeline.name) else None

    async def _is_outdated(self, pipeline: Pipeline) -> bool:
        """Tell whether stages have become faster or slower, to the point where others would answer sooner.

        Only the tensors of layers that then change hands travel: the others are there already.
        """
        if pipeline.is_local or pipeline.is_replica or not pipeline.unforced:
            return False
        plan = pipeline.plan
        measured = [figures.token_seconds for figures in await pipeline.figures()]
        planned = [stage.seconds for stage in plan.stages]
        if len(measured) < len(planned) or not any(map(_has_drifted, planned, measured)):
            return False
        better = (await self.plan(pipeline.manifest)).plan
        now = plan.seconds + sum(measured) - sum(planned)
        return better.seconds < WORTH * now and _split(better) != _split(plan)

    def _borrow(self, reachable: ReachablePipeline) -> PeerPipeline:
        names = {member.id: member.name for member in self._identity.roster.members}
        return PeerPipeline(reachable, names, lost=self._directory.avoid)

    async def _place(self, manifest: Manifest, stages: int | None, text: str, progress: Progress) -> Provided:
        """Load the model; over several devices only one member at a time does so, and the others use what it loads."""
        try:
            planned = await self._plan_settled(manifest, stages)
        except NotEnough:
            if stages is not None or not self._links.links():
                raise  # else somebody may be placing it, whose stages take the memory already
        else:
            if stages is not None or all(stage.node == self._identity.id for stage in planned.plan.stages):
                return await self._load(planned, manifest, None, progress, unforced=stages is None)

        async def place(number: int) -> Provided:
            found = await self._find(manifest, None, text)  # somebody else may have been first
            if found is not None:
                return found
            again = await self._plan_settled(manifest, None)
            return await self._load(again, manifest, number, progress, unforced=True)

        def waiting(holder: str) -> None:
            progress(LoadProgress(f"{holder} is placing {manifest.name}: waiting for it"))

        return await self._leases.run(load_lease(manifest.digest), place, waiting)

    async def _private(self, manifest: Manifest, progress: Progress) -> Provided:
        """Return a pipeline whose first and last layers are on this device; nobody else is told of it."""
        own = self.pipelines.find_private(manifest.digest, self._identity.id)
        if own is not None:
            return own
        planned = await self._plan_settled(manifest, None, private=True)
        is_here = all(stage.node == self._identity.id for stage in planned.plan.stages)
        return await self._load(planned, manifest, None, progress, unforced=is_here)

    async def _plan_settled(self, manifest: Manifest, stages: int | None, *, private: bool = False) -> Planned:
        """Plan with what broken pipelines give back; one with a stage that hangs is waited for only if it must be."""
        settled = await self.pipelines.settle(self._timing.settle)
        try:
            return await self.plan(manifest, stages, private=private)
        except NotEnough:
            if settled:
                raise
            await self.pipelines.settle()
            return await self.plan(manifest, stages, private=private)

    async def _load(
        self, planned: Planned, manifest: Manifest, lease: int | None, progress: Progress, *, unforced: bool
    ) -> Pipeline:
        await self.pipelines.make_room(planned.plan, planned.free)
        pipeline = self._pipeline(planned, manifest, unforced=unforced, lease=lease)
        await self.pipelines.load(pipeline, progress)
        self._drafts.spawn(self._load_draft(pipeline))
        return pipeline

    async def _load_draft(self, pipeline: Pipeline) -> None:
        """Load a small model that guesses what the pipeline will say, if there is one."""
        if not self._config.speculate:
            return
        manifest = await self.finder.draft_of(pipeline.manifest, self._config.draft_model)
        planned = await self._survey.here(manifest) if manifest is not None else None
        if manifest is None or planned is None:
            return
        options = self._options._replace(sessions=1, queue=0, kept_tokens=0, speculate=False)
        small = self._pipeline(planned, manifest, unforced=False, options=options)
        await small.load(lambda _: None)
        if pipeline.usable:
            pipeline.draft = DraftModel(small, self._log)
            self._log.info("%s guesses what %s will say.", manifest.name, pipeline.model)
        else:
            await small.close()

    async def _load_replica(self, planned: Planned, manifest: Manifest) -> None:
        pipeline = self._pipeline(planned, manifest, unforced=True, is_replica=True)
        await self.pipelines.load(pipeline, lambda _: None)

    def _pipeline(
        self,
        planned: Planned,
        manifest: Manifest,
        *,
        unforced: bool,
        is_replica: bool = False,
        lease: int | None = None,
        options: PipelineOptions | None = None,
    ) -> Pipeline:
        return Pipeline(
            planned.plan,
            manifest,
            planned.sources,
            unforced=unforced,
            is_replica=is_replica,
            lease=lease,
            identity=self._identity,
            service=self._service,
            links=self._links,
            options=options or self._options,
            log=self._log,
        )


def _has_drifted(planned: float, measured: float) -> bool:
    """Whether a stage's time of a token differs from the plan by more than a third of it."""
    return abs(measured - planned) > DRIFT * planned


def _split(plan: Plan) -> list[tuple[str, int]]:
    """Return the node and first layer of each stage."""
    return [(stage.node, stage.first_layer) for stage in plan.stages]
