"""Planning over the members that can be reached now: what each can give, and where a model then goes."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec

from ainet.errors import AinetError, NotFound, UsageError
from ainet.executor.messages import DescribeNode
from ainet.executor.placement import NodeOffer, Plan, Planner
from ainet.executor.stages.spec import EXACT_UBATCH

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping, Sequence

    from ainet.config import AinetConfig
    from ainet.executor.models.manifest import Manifest
    from ainet.executor.models.tensors import TensorStore
    from ainet.executor.optimiser import Objective
    from ainet.executor.speeds import Speeds
    from ainet.executor.stages.service import StageService
    from ainet.identity import Identity
    from ainet.network import Links, MemberState
    from ainet.resources.allocator import Allocator

#: A member that does not describe itself within this time (s) is left out of a plan.
DESCRIBE_SECONDS = 5.0
#: Quantisations for which llama.cpp computes a row in the same way whatever is beside it, tested on processors.
EXACT = frozenset(("Q4_0", "Q4_1", "Q8_0"))
#: No device reads more bytes of memory in a second.
MOST_SPEED = 1e15


class Planned(NamedTuple):
    """A plan, the nodes (by id) that hold the model, and the bytes that are free on each node now."""

    plan: Plan
    sources: list[str]
    free: dict[str, int]


class Sizes(NamedTuple):
    """Context window and chunk, in tokens."""

    n_ctx: int
    n_ubatch: int


class Planning:
    """Makes plans for this node's owner.

    Parameters
    ----------
    config
        Context window, chunk, threads.
    identity, links
        This node and the way to members.
    service, allocator, store
        The workers, the memory and the tensors of this node.
    speed
        Bytes of memory that one thread reads in a second, measured.
    speeds
        How fast models ran here.
    log
        For members that are left out.
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
        speed: float,
        speeds: Speeds,
        log: logging.Logger,
    ) -> None:
        self._config = config
        self._identity = identity
        self._links = links
        self._service = service
        self._allocator = allocator
        self._store = store
        self._speed = speed
        self._speeds = speeds
        self._log = log

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
                msg = (
                    f"`exact` is set, but it is not known to hold for {manifest.quantisation}, the quantisation of "
                    f"{manifest.name}: only for {', '.join(sorted(EXACT))}. Use such a model, or switch `exact` off."
                )
                raise UsageError(msg)
            chunk = min(chunk, EXACT_UBATCH)
        return Sizes(min(self._config.context_window, manifest.n_ctx_train), chunk)

    @property
    def _objective(self) -> Objective:
        return cast("Objective", self._config.objective)

    async def offer(self, digest: str) -> NodeOffer:
        """Return what this node can give to a pipeline of the model with this digest."""
        holds = await asyncio.to_thread(self._holds, digest)
        free = self._allocator.free
        measured = self._speeds.get(digest)
        return NodeOffer(
            node=self._identity.id,
            name=self._identity.name,
            memory=free.memory,
            threads=self._config.stage_threads or self._allocator.caps.threads,
            speed=measured or self._speed,
            measured=measured is not None,
            latencies={link.peer_id: link.distance for link in self._links.links() if link.distance is not None},
            workers=self._service.worker_limit,
            models=[digest] if holds else [],
            gpu=self._allocator.caps.gpu,
        )

    async def fits_here(self, manifest: Manifest, idle: Mapping[str, int]) -> bool:
        """Whether the whole model fits on this device; `idle` as for `plan`."""
        own = _with_idle(await self.offer(manifest.digest), idle)
        return Planner(manifest, [own], **self.sizes(manifest)._asdict()).fits(own)

    async def plan(self, manifest: Manifest, stages: int | None, idle: Mapping[str, int]) -> Planned:
        """Place a model; nothing is loaded or unloaded yet.

        Parameters
        ----------
        stages
            How many there must be; None leaves it to the planner.
        idle
            Bytes on each node (by id) that unloading idle pipelines would free.

        Raises
        ------
        NotEnough, CannotSplit
            With the numbers, or the reason.
        """
        if stages is not None and stages < 1:
            msg = f"stages is {stages}; it must be at least 1."
            raise UsageError(msg)
        sizes = self.sizes(manifest)._asdict()
        own = await self.offer(manifest.digest)
        alone = Planner(manifest, [_with_idle(own, idle)], **sizes, objective=self._objective)
        if stages is None and own.models and alone.fits(_with_idle(own, idle)):  # no need to ask anybody
            return Planned(alone.plan(), [own.node], {own.node: own.memory})
        members = [state for state in self._links.members() if state.connected and not state.is_self]
        others = await asyncio.gather(*(self._describe(state, manifest.digest) for state in members))
        offers = [own, *(offer for offer in others if offer is not None)]
        able = [_with_idle(offer, idle) for offer in offers]
        planner = Planner(manifest, able, **sizes, objective=self._objective)
        plan = await asyncio.to_thread(planner.plan, stages)
        sources = [offer.node for offer in offers if offer.models]
        return Planned(plan, sources, {offer.node: offer.memory for offer in offers})

    async def plan_for(self, manifest: Manifest, stages: int | None, offers: Sequence[NodeOffer]) -> Plan:
        """Place a model on devices that need not exist; see `plan`."""
        planner = Planner(manifest, offers, **self.sizes(manifest)._asdict(), objective=self._objective)
        return await asyncio.to_thread(planner.plan, stages)

    def _holds(self, digest: str) -> bool:
        try:
            manifest = self._store.manifest(digest)
        except NotFound:
            return False
        return not self._store.missing(manifest, 0, manifest.n_layers - 1)

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
        latencies = {node: seconds for node, seconds in offer.latencies.items() if 0 <= seconds < math.inf}
        # A member speaks for itself only.
        return msgspec.structs.replace(offer, node=state.id, name=state.name, latencies=latencies)


def _with_idle(offer: NodeOffer, idle: Mapping[str, int]) -> NodeOffer:
    return msgspec.structs.replace(offer, memory=offer.memory + idle.get(offer.node, 0))
