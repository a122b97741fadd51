"""A pipeline: the ordered stages of one model, as the node that asks sees them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import secrets
import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from ainet.api.generate import PlacedStage
from ainet.errors import AinetError, ProtocolError, StageLost
from ainet.executor.session_client import SessionClient
from ainet.executor.slowest import Slowest
from ainet.executor.speculator import Guesser, Speculator
from ainet.hosting.requests import CloseStages, DescribeStages, LinkStage, LoadProgress, LoadStage, StageLoaded
from ainet.links.standing import Standing
from ainet.placement.rollback import rollback_of
from ainet.resources.memory import Memory
from ainet.stages.protocol.recovery import plan_recovery
from ainet.stages.protocol.spec import EPOCH_BYTES, StageSpec
from ainet.timing import TIMING

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Callable

    from ainet.api.models import Plan, PlannedStage
    from ainet.api.node import StageFigures
    from ainet.config import AinetConfig
    from ainet.hosting.stages import HostedStages
    from ainet.identity.identity import Identity
    from ainet.links.links import Links
    from ainet.models.manifest import Manifest
    from ainet.stages.protocol.address import StageAddress
    from ainet.stages.protocol.flow import Flow
    from ainet.stages.protocol.generation import Event, Open
    from ainet.stages.protocol.recovery import Recovery
    from ainet.stages.protocol.spec import Form


class PipelineOptions(NamedTuple):
    """The options of a pipeline that concern its sessions; see `StageSpec`."""

    sessions: int
    queue: int
    kept_tokens: int
    exact: bool
    speculate: bool
    hidden_states: Form

    @classmethod
    def of(cls, config: AinetConfig) -> PipelineOptions:
        """Return what the owner wants."""
        return cls(
            sessions=config.sessions,
            queue=config.queue,
            kept_tokens=config.kept_tokens if config.kept_tokens >= 0 else config.context_window,
            exact=config.exact,
            speculate=config.speculate,
            hidden_states=cast("Form", config.hidden_states),
        )

    def rollback(self, manifest: Manifest) -> int:
        """Return the tokens of this model that can be taken back."""
        return rollback_of(manifest, sessions=self.sessions, exact=self.exact, speculate=self.speculate)


class Pipeline:
    """Loads a plan's stages, links them to a ring, asks them, and unloads them.

    Parameters
    ----------
    plan
        The plan for the layers.
    manifest
        The model.
    sources
        Node ids that hold the model, for the stages that lack tensors.
    identity, service, links
        This node, its own stages, and the way to other nodes.
    unforced
        Whether the number of stages was left to the planner.
    is_replica
        Whether the model was loaded already, and others were busy with it.
    lease
        Number of the lease in whose name it is loaded, if any.
    options
        The options that concern its sessions.
    log
        For what goes wrong while nobody listens.
    """

    #: It belongs to this node.
    is_own = True

    def __init__(
        self,
        plan: Plan,
        manifest: Manifest,
        sources: list[str],
        *,
        unforced: bool,
        is_replica: bool = False,
        lease: int | None = None,
        identity: Identity,
        service: HostedStages,
        links: Links,
        options: PipelineOptions,
        log: logging.Logger,
    ) -> None:
        self.plan = plan
        self.unforced = unforced
        self.is_replica = is_replica
        #: Whether it was unloaded on purpose, whoever used it.
        self.unwanted = False
        #: Called by whoever keeps it: with the pipeline when it was lost, and when others use it than before.
        self.abandoned: Callable[[Pipeline], object] = lambda _: None
        self.used: Callable[[], object] = lambda: None
        self._lease = lease
        self.name = secrets.token_hex(8)
        self.last_used = time.monotonic()
        self._epoch = secrets.token_bytes(EPOCH_BYTES)
        self.manifest = manifest
        self._sources = sources
        self._identity, self._service = identity, service
        self._links = links
        self._options = options
        self._log = log
        self._loaded: list[StageLoaded] = []
        #: Nodes (by id) that could not be told to unload their stages: they do not know that it has ended.
        self.untold: set[str] = set()
        self._client: SessionClient | None = None
        #: Guesses what this one will say, once it is loaded.
        self.draft: Guesser | None = None
        self._sessions = itertools.count(1)
        self._claims = 0
        self._names = {manifest.name.casefold(), manifest.digest}
        #: Whether every stage is here: then no other device and no certificate of the swarm is involved.
        self._local = all(stage.node == identity.id for stage in plan.stages)

    @property
    def model(self) -> str:
        return self.plan.name

    @property
    def digest(self) -> str:
        return self.plan.model

    @property
    def is_local(self) -> bool:
        """Whether every stage is on this device."""
        return self._local

    @property
    def usable(self) -> bool:
        """Whether the pipeline can be asked."""
        return self._client is not None and not self._client.closed

    @property
    def sessions(self) -> int:
        """The number of sessions that use it, or are about to."""
        return self._claims

    @property
    def idle(self) -> bool:
        """Whether nobody uses it at the moment."""
        return self._claims == 0

    @property
    def placement(self) -> list[PlacedStage]:
        """The process of each range of layers."""
        return [
            PlacedStage(stage.name, loaded.address.pid, stage.first_layer, stage.last_layer)
            for stage, loaded in zip(self.plan.stages, self._loaded, strict=True)
        ]

    @property
    def memory(self) -> dict[str, Memory]:
        """The memory that its stages take on each node (by id)."""
        found: dict[str, Memory] = {}
        for stage, loaded in zip(self.plan.stages, self._loaded, strict=True):
            found[stage.node] = found.get(stage.node, Memory()) + Memory(loaded.memory, loaded.gpu_memory)
        for node, memory in self.draft.memory.items() if self.draft is not None else []:
            found[node] = found.get(node, Memory()) + memory
        return found

    @property
    def received(self) -> dict[str, int]:
        """Bytes of tensors that each node fetched to load its stages."""
        found: dict[str, int] = {}
        for stage, loaded in zip(self.plan.stages, self._loaded, strict=True):
            found[stage.name] = found.get(stage.name, 0) + loaded.received
        return found

    def claim(self, name: str) -> None:
        """Note that somebody uses it, who calls the model `name`; `release` takes that back."""
        self._claims += 1
        self._names.add(name.casefold())
        self.used()

    def release(self) -> None:
        """Note that somebody has finished."""
        self._claims -= 1
        self.last_used = time.monotonic()
        self.used()

    def abandon(self) -> None:
        """Ask it no more: it was lost. Whoever keeps it unloads it."""
        self.abandoned(self)

    def is_called(self, name: str) -> bool:
        """Whether the model was ever asked for by this name, or has this digest."""
        return name.casefold() in self._names

    async def guess(self, begin: int, tokens: list[int], most: int) -> list[int]:
        """Return what follows a text, most likely; see `Guess`. Raises AinetError."""
        if self._client is None:
            raise StageLost("The pipeline is not loaded.")
        return await self._client.guess(next(self._sessions), begin, tokens, most)

    def cut(self) -> None:
        """End every session at once."""
        if self._client is not None:
            self._client.cut()

    async def load(self, progress: Callable[[LoadProgress], None]) -> None:
        """Load and link every stage.

        Raises
        ------
        AinetError
            The first stage's failure; the others are unloaded.
        """
        try:
            slowest = Slowest(progress)

            async def load(stage: PlannedStage) -> StageLoaded:
                loaded = await self._load(stage, slowest.of(stage.first_layer))
                slowest.done(stage.first_layer)
                return loaded

            self._loaded = await _all(load(stage) for stage in self.plan.stages)
            progress(LoadProgress("linking the stages"))
            addresses = [loaded.address for loaded in self._loaded]
            followers = [*addresses[1:], addresses[0]]
            kept = min(loaded.kept_tokens for loaded in self._loaded)
            recovery = plan_recovery(
                [stage.first_layer for stage in self.plan.stages], [loaded.held for loaded in self._loaded]
            )
            await _all(
                self._link(stage, addresses[i - 1], followers[i], kept, recovery)
                for i, stage in enumerate(self.plan.stages)
            )
            last, address = self.plan.stages[-1], addresses[-1]
            there = (address.host, address.session_port)
            route = await self._links.forwarders.route(last.node, *there)
            self._client = await SessionClient.connect(
                self._identity.local_credentials() if self._local else self._identity.credentials(),
                route,
                last.node,
                self._epoch,
                f"The stage on {last.name} (layers {last.first_layer}–{last.last_layer})",
                patience=TIMING.silence if route == there else TIMING.forwarded_silence,
            )
            for node in {stage.node for stage in self.plan.stages} - {self._identity.id}:
                self._watch(node)
            self.last_used = time.monotonic()
        except BaseException:
            await self.close()
            raise

    async def ask(self, request: Open, flow: Flow | None = None) -> AsyncGenerator[Event, None]:
        """Answer one request, as far as `flow` lets it; closing the generator cancels it on every stage.

        Raises
        ------
        StageLost
            If a stage is lost meanwhile; the pipeline is then unusable.
        """
        if self._client is None:
            raise StageLost("The pipeline is not loaded.")
        request = msgspec.structs.replace(request, session=next(self._sessions))
        client = self._client
        events = client.ask(request, flow)
        speculator: Speculator | None = None
        if self.draft is not None and not self.draft.closed:
            speculator = Speculator(self.draft, request, functools.partial(client.suggest, request.session))
        try:
            async for event in events:
                if speculator is not None:
                    speculator.receive(event)
                yield event
        except StageLost as exc:
            raise StageLost(f"A stage of {self.plan.name} was lost while it answered: {exc}.") from exc
        finally:
            if speculator is not None:
                await speculator.stop()
            await events.aclose()

    async def figures(self) -> list[StageFigures]:
        """Return what the stages measured, in order."""
        found: list[StageFigures] = []
        for node in dict.fromkeys(stage.node for stage in self.plan.stages):
            if node == self._identity.id:
                found += await self._service.figures(self.name)
            else:
                link = await self._links.connect(node)
                found += (await link.request(DescribeStages(self.name))).stages
        return sorted(found, key=lambda figure: figure.first_layer)

    async def close(self, *, park: bool = False) -> None:
        """Unload every stage that can be reached; the others are `untold`.

        With `park`, their models stay for a while, for a pipeline that takes this one's place.
        """
        if self._client is not None:
            await self._client.close()
        nodes = dict.fromkeys(stage.node for stage in self.plan.stages)
        closing = [self._close(node, park=park) for node in nodes]
        if self.draft is not None:
            closing.append(self.draft.close())  # it may be in the middle of a long text: nobody waits for it
        await asyncio.gather(*closing)
        if self._loaded:
            last = self._loaded[-1].address
            await self._links.forwarders.close(last.node, last.session_port)

    @property
    def _n_devices(self) -> int:
        """Stages that compute at the same time: those of one GPU take turns."""
        gpus = [stage.node for stage in self.plan.stages if stage.gpu]
        return len(self.plan.stages) - len(gpus) + len(set(gpus))

    async def _load(self, stage: PlannedStage, progress: Callable[[LoadProgress], None]) -> StageLoaded:
        spec = StageSpec(
            pipeline=self.name,
            epoch=self._epoch,
            owner=self._identity.id,
            model=self.manifest.digest,
            first_layer=stage.first_layer,
            last_layer=stage.last_layer,
            n_stages=len(self.plan.stages),
            n_ctx=self.plan.n_ctx,
            n_ubatch=self.plan.n_ubatch,
            threads=stage.threads,
            gpu=stage.gpu,
            n_devices=self._n_devices,
            experts_on_host=stage.experts_on_host,
            sessions=self._options.sessions,
            queue=self._options.queue,
            kept_tokens=self._options.kept_tokens,
            exact=self._options.exact,
            speculate=self._options.speculate,
            hidden_states=self._options.hidden_states,
            rollback=self._options.rollback(self.manifest),
        )

        def report(item: LoadProgress) -> None:
            progress(msgspec.structs.replace(item, text=f"{stage.name}: {item.text}"))

        sources = [node for node in self._sources if node != stage.node]
        if stage.node == self._identity.id:
            return await self._service.load(spec, self.manifest, sources, report, local=self._local)
        link = await self._links.connect(stage.node)
        request = LoadStage(spec, self.manifest.encode(), sources, self._lease)
        async with contextlib.aclosing(link.stream(request)) as items:
            async for item in items:
                if isinstance(item, StageLoaded):
                    if item.address.node != stage.node:
                        raise ProtocolError(f"{stage.name} loaded its layers in another device's name.")
                    return item
                report(item)
        raise StageLost(f"{stage.name} did not say whether it loaded its layers.")

    async def _link(
        self,
        stage: PlannedStage,
        previous: StageAddress,
        following: StageAddress,
        kept: int,
        recovery: Recovery | None,
    ) -> None:
        neighbour = following if len(self.plan.stages) > 1 else None
        if stage.node == self._identity.id:
            await self._service.link(
                self.name, stage.first_layer, previous.node, neighbour, kept_tokens=kept, recovery=recovery
            )
            return
        link = await self._links.connect(stage.node)
        request = LinkStage(self.name, stage.first_layer, previous.node, neighbour, kept, recovery)
        await link.request(request, timeout=TIMING.pipeline_link)

    def _watch(self, node: str, instance: str | None = None) -> None:
        """Give the pipeline up when one of its devices stays away, or was started anew (`instance`: which run it was).

        An outage of some seconds ends a link, but not what goes over channels. Who asks meanwhile notices by silence.
        """
        if not self.usable:
            return
        link = self._links.open_link(node, Standing.MEMBER)
        if link is None or instance not in {None, link.instance}:
            self.cut()
            return
        known = weakref.ref(self)  # a link may outlive many pipelines

        def away(instance: str) -> None:
            if (pipeline := known()) is not None:
                pipeline._watch(node, instance)

        wait = asyncio.get_running_loop().call_later
        link.on_close(lambda closed: wait(TIMING.owner_away, away, closed.instance))

    async def notify(self) -> None:
        """Tell the nodes that could not be told, and are linked again, to unload their stages."""
        self.untold = {node for node in self.untold if self._identity.roster.member(node) is not None}
        await asyncio.gather(
            *(
                self._close(node, park=False)
                for node in list(self.untold)
                if self._links.open_link(node, Standing.MEMBER) is not None
            )
        )

    async def _close(self, node: str, *, park: bool) -> None:
        try:
            if node == self._identity.id:
                await self._service.close(self.name, park=park)
            else:
                self.untold.add(node)
                link = await self._links.connect(node)
                await link.request(CloseStages(self.name, park), timeout=TIMING.pipeline_close)
                self.untold.discard(node)
        except AinetError as exc:
            self._log.info("A stage of %s could not be told to end: %s", self.manifest.name, exc)


async def _all(calls: Any) -> list[Any]:
    """Await all of the coroutines; when one fails the others are cancelled and its error is raised."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
