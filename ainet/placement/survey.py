"""A survey of the members that can be reached now: what each can give, and where a model then goes."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec

from ainet.errors import AinetError, NotEnough, NotFound, UsageError
from ainet.placement.capacity import NodeCapacity
from ainet.placement.footprint import GPU_UBATCH
from ainet.placement.planner import Planner
from ainet.placement.requests import DescribeNode
from ainet.placement.rollback import rollback_of
from ainet.resources.memory import Memory
from ainet.stages.protocol.spec import EXACT_UBATCH
from ainet.stages.ring.hidden_states import HiddenStates
from ainet.timing import TIMING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Container, Mapping, Sequence

    from ainet.api.models import Plan
    from ainet.api.swarm import MemberState
    from ainet.config import AinetConfig
    from ainet.identity.identity import Identity
    from ainet.links.bandwidths import Bandwidths
    from ainet.links.link import PeerLink
    from ainet.links.links import Links
    from ainet.models.manifest import Manifest
    from ainet.models.tensors import TensorStore
    from ainet.placement.optimiser import Objective
    from ainet.resources.allocator import Allocator
    from ainet.resources.speeds import Speeds
    from ainet.stages.protocol.spec import Form

#: Quantisations for which llama.cpp computes a row in the same way whatever is beside it, tested on processors.
EXACT = frozenset(("Q4_0", "Q4_1", "Q8_0"))
REMEMBER_SECONDS = 600.0
#: A replica whose tensors take longer (s) to fetch comes too late for those who wait.
FETCH_SECONDS = 60.0
#: No device reads more bytes of memory in a second.
MOST_SPEED = 1e15


class Planned(NamedTuple):
    """A plan, the nodes (by id) that hold the model, and the memory that is free on each node now."""

    plan: Plan
    sources: list[str]
    free: dict[str, Memory]


class Sizes(NamedTuple):
    """Context window and chunk, in tokens."""

    n_ctx: int
    n_ubatch: int

    def allow(self, n_ctx: int, n_ubatch: int) -> bool:
        """Whether a pipeline of these sizes serves as well: on GPUs chunks are longer, and never exact."""
        longer = n_ubatch == GPU_UBATCH and self.n_ubatch > EXACT_UBATCH
        return n_ctx == self.n_ctx and (n_ubatch == self.n_ubatch or longer)


class Survey:
    """Makes plans for this node's owner.

    Parameters
    ----------
    config
        Context window, chunk, threads.
    identity, links
        This node and the way to members.
    parked, worker_limit
        Return the memory of models that are kept for pipelines to come, and the most stages that can run here.
    allocator, store
        The memory and the tensors of this node.
    speed, gpu_speed
        Bytes of memory that one thread, and a GPU, reads in a second, measured.
    speeds
        The speeds of models on this device.
    bandwidths
        The bandwidths of links.
    log
        For members that are left out.
    """

    def __init__(
        self,
        *,
        config: AinetConfig,
        identity: Identity,
        links: Links,
        parked: Callable[[], Memory],
        worker_limit: Callable[[], int | None],
        allocator: Allocator,
        store: TensorStore,
        speed: float,
        gpu_speed: float,
        speeds: Speeds,
        bandwidths: Bandwidths,
        log: logging.Logger,
    ) -> None:
        self._config = config
        self._identity = identity
        self._links = links
        self._parked = parked
        self._worker_limit = worker_limit
        self._allocator = allocator
        self._store = store
        self._speed, self._gpu_speed = speed, gpu_speed
        self._speeds = speeds
        self._bandwidths = bandwidths
        self._log = log
        links.handle(DescribeNode, self._answer)

    def sizes(self, manifest: Manifest) -> Sizes:
        """Return the context window and the chunk that the owner wants for this model.

        Raises
        ------
        UsageError
            If answers shall be exact, but are not known to be so with this model's quantisation.
        """
        chunk = self._config.chunk
        if self._config.exact:
            if manifest.quantisation not in EXACT:
                raise UsageError(
                    f"`exact` is set, but it is not known to hold for {manifest.quantisation}, the quantisation of "
                    f"{manifest.name}: only for {', '.join(sorted(EXACT))}. Use such a model, or switch `exact` off."
                )
            chunk = min(chunk, EXACT_UBATCH)
        return Sizes(min(self._config.context_window, manifest.n_ctx_train), chunk)

    @property
    def _objective(self) -> Objective:
        return cast("Objective", self._config.objective)

    async def capacity(self, digest: str) -> NodeCapacity:
        """Return what this node can give to a pipeline of the model with this digest."""
        links = self._links.links()
        holds = await asyncio.to_thread(self._holds, digest)
        free, parked = self._allocator.free, self._parked()
        measured, on_gpu = self._speeds.get(digest), self._speeds.get(digest, gpu=True)
        return NodeCapacity(
            node=self._identity.id,
            name=self._identity.name,
            memory=free.memory + parked.host,
            threads=self._config.stage_threads or self._allocator.caps.threads,
            speed=measured or self._speed,
            measured=measured is not None,
            latencies={link.peer_id: link.distance for link in links if link.distance is not None},
            bandwidths={link.peer_id: known for link in links if (known := self._bandwidths.known(link)) is not None},
            workers=self._worker_limit(),
            models=[digest] if holds else [],
            gpu_memory=free.gpu_memory + parked.gpu,
            gpu_speed=on_gpu or self._gpu_speed,
            gpu_measured=on_gpu is not None,
        )

    async def describe(self, digest: str) -> NodeCapacity:
        """Return what this node can give, and how far others are from it: that is measured, where it is not known."""
        await self._bandwidths.measure_all(self._links.links(), REMEMBER_SECONDS, TIMING.distance_measured)
        return await self.capacity(digest)

    async def _answer(self, _link: PeerLink, request: DescribeNode) -> NodeCapacity:
        return await self.describe(request.model)

    async def fits_here(self, manifest: Manifest, idle: Mapping[str, Memory]) -> bool:
        """Whether the whole model fits on this device; `idle` as for `plan`."""
        own = _with_idle(await self.capacity(manifest.digest), idle)
        return self.planner(manifest, [own]).fits(own)

    async def plan(
        self, manifest: Manifest, stages: int | None, idle: Mapping[str, Memory], *, private: bool = False
    ) -> Planned:
        """Place a model; nothing is loaded or unloaded yet.

        Parameters
        ----------
        stages
            The number of stages; None leaves it to the planner.
        idle
            Memory of each node (by id) that unloading idle pipelines would free.
        private
            See `Planner.plan`.

        Raises
        ------
        NotEnough, CannotSplit
            With the numbers, or the reason.
        """
        if stages is not None and stages < 1:
            raise UsageError(f"stages is {stages}; it must be at least 1.")
        own = await self.capacity(manifest.digest)
        alone = self.planner(manifest, [_with_idle(own, idle)])
        if stages is None and own.models and alone.fits(_with_idle(own, idle)):  # no need to ask anybody
            return Planned(alone.plan(), [own.node], {own.node: own.free})
        capacities = await self._capacities(manifest)
        able = [_with_idle(capacity, idle) for capacity in capacities]
        plan = await asyncio.to_thread(self.planner(manifest, able).plan, stages, private=private)
        sources = [capacity.node for capacity in capacities if capacity.models]
        return Planned(plan, sources, {capacity.node: capacity.free for capacity in capacities})

    async def replica(self, manifest: Manifest, used: Container[str]) -> Planned | None:
        """Place the whole model on the best device that does not hold it yet; None if there is none.

        Parameters
        ----------
        used
            Nodes (by id) that hold it.
        """
        own, *others = await self._capacities(manifest)

        def is_near(capacity: NodeCapacity) -> bool:
            return (
                bool(capacity.models) or manifest.nbytes / own.bandwidths.get(capacity.node, math.inf) <= FETCH_SECONDS
            )

        able = [capacity for capacity in (own, *others) if capacity.node not in used and is_near(capacity)]
        plans = [self.planner(manifest, [one]).plan(1) for one in able if self.planner(manifest, [one]).fits(one)]
        if not plans:
            return None
        sources = [capacity.node for capacity in (own, *others) if capacity.models]
        return Planned(min(plans, key=lambda plan: plan.seconds), sources, {})

    async def here(self, manifest: Manifest) -> Planned | None:
        """Place the whole model on this device; None where it does not fit into what is free."""
        own = await self.capacity(manifest.digest)
        planner = self.planner(manifest, [own])
        return Planned(planner.plan(1), [own.node], {}) if planner.fits(own) else None

    async def plan_for(
        self, manifest: Manifest, stages: int | None, capacities: Sequence[NodeCapacity], *, private: bool = False
    ) -> Plan:
        """Place a model on devices that need not exist; see `plan`."""
        return await asyncio.to_thread(self.planner(manifest, capacities).plan, stages, private=private)

    async def member(self, state: MemberState) -> NodeCapacity:
        """Return what a member can give to a model that nobody has yet.

        Raises
        ------
        NotEnough
            It does not say.
        """
        capacity = await self._describe(state, "")
        if capacity is None:
            raise NotEnough(f"{state.name} does not say what it can give. Is it running? `ainet peers` shows who is.")
        return capacity

    def planner(self, manifest: Manifest, capacities: Sequence[NodeCapacity]) -> Planner:
        """Return a planner of this model for these devices, with the owner's settings; raises as `sizes`."""
        config = self._config
        return Planner(
            manifest,
            capacities,
            **self.sizes(manifest)._asdict(),
            objective=self._objective,
            row_bytes=HiddenStates(cast("Form", config.hidden_states), manifest.n_embd).row_bytes,
            sessions=config.sessions,
            exact=config.exact,
            rollback=rollback_of(manifest, sessions=config.sessions, exact=config.exact, speculate=config.speculate),
        )

    async def _capacities(self, manifest: Manifest) -> list[NodeCapacity]:
        """Return what this node and the members that can be reached can give."""
        members = [state for state in self._links.members() if state.connected and not state.is_self]
        others = await asyncio.gather(*(self._describe(state, manifest.digest) for state in members))
        return [await self.describe(manifest.digest), *(capacity for capacity in others if capacity is not None)]

    def _holds(self, digest: str) -> bool:
        try:
            manifest = self._store.manifest(digest)
        except NotFound:
            return False
        return not self._store.missing(manifest, 0, manifest.n_layers - 1)

    async def _describe(self, state: MemberState, digest: str) -> NodeCapacity | None:
        try:
            async with asyncio.timeout(TIMING.capacity_asked):
                link = await self._links.connect(state.id)
                capacity = await link.request(DescribeNode(digest))
        except (AinetError, TimeoutError) as exc:
            self._log.info("%s is left out of the plan: %s", state.name, exc or "no answer")
            return None
        if not (0 < capacity.speed < MOST_SPEED and 0 <= capacity.gpu_speed < MOST_SPEED and capacity.threads > 0):
            told = "%s is left out of the plan: it says that each of %d threads reads %s B/s."
            self._log.warning(told, state.name, capacity.threads, capacity.speed)
            return None
        latencies = {node: seconds for node, seconds in capacity.latencies.items() if 0 <= seconds < math.inf}
        bandwidths = {node: speed for node, speed in capacity.bandwidths.items() if 0 < speed < math.inf}
        # A member speaks for itself only.
        return msgspec.structs.replace(
            capacity, node=state.id, name=state.name, latencies=latencies, bandwidths=bandwidths
        )


def _with_idle(capacity: NodeCapacity, idle: Mapping[str, Memory]) -> NodeCapacity:
    free = capacity.free + idle.get(capacity.node, Memory())
    return msgspec.structs.replace(capacity, memory=free.host, gpu_memory=free.gpu)
