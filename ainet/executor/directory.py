"""The directory: the pipelines that members have loaded, as each says in its signed log, for all of them to use."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

from ainet.identity.roster import Count, NodeId
from ainet.timing import TIMING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ainet.executor.pipeline import Pipeline
    from ainet.links.link import PeerLink
    from ainet.links.links import Links
    from ainet.placement.survey import Sizes
    from ainet.swarm.feeds import Feeds

LOG = "placements"
MAX_STAGES = 1024


class PlacedLayers(msgspec.Struct, frozen=True):
    """Layers (0-based, inclusive) in a process on a node."""

    node: NodeId
    pid: Count
    first_layer: Count
    last_layer: Count


class AnnouncedPipeline(msgspec.Struct, frozen=True):
    """A node's announcement of a pipeline that it has loaded.

    Attributes
    ----------
    model, name
        Digest and name of the model.
    n_ctx, n_ubatch
        Context window and chunk, in tokens.
    seconds
        Predicted time of a token.
    stages
        The places of the layers, in order.
    """

    model: str
    name: str
    n_ctx: int
    n_ubatch: int
    seconds: float
    stages: Annotated[list[PlacedLayers], msgspec.Meta(max_length=MAX_STAGES)]


class ReachablePipeline(NamedTuple):
    """A pipeline of a member: its name, and the link to its owner."""

    placement: AnnouncedPipeline
    pipeline: str
    link: PeerLink

    @property
    def rank(self) -> tuple[float, str]:
        """The lower, the better; the same for everybody."""
        return self.placement.seconds, self.pipeline

    @property
    def is_whole(self) -> bool:
        """Whether one device holds the whole model."""
        return len(self.placement.stages) == 1


class PipelineDirectory:
    """Tells members what is loaded here, and knows what they have loaded.

    Parameters
    ----------
    links, feeds
        The members that can be reached; the feeds in which pipelines are announced.
    """

    def __init__(self, links: Links, feeds: Feeds) -> None:
        self._links, self._feeds = links, feeds
        self._avoided: dict[str, float] = {}

    def publish(self, pipelines: Iterable[Pipeline]) -> None:
        """Tell the members that these pipelines are loaded, and no others."""
        told: dict[str, AnnouncedPipeline | None] = dict.fromkeys(self._feeds.keys(self._links.identity.id, LOG))
        for pipeline in pipelines:
            plan = pipeline.plan
            stages = [
                PlacedLayers(stage.node, placed.pid, stage.first_layer, stage.last_layer)
                for stage, placed in zip(plan.stages, pipeline.placement, strict=True)
            ]
            told[pipeline.name] = AnnouncedPipeline(
                plan.model, plan.name, plan.n_ctx, plan.n_ubatch, plan.seconds, stages
            )
        if told:
            self._feeds.publish(LOG, told)

    def of(self, node: str) -> list[tuple[str, AnnouncedPipeline]]:
        """Return the pipelines (name, placement) that the node says it has loaded."""
        return [
            (name, placement)
            for name in self._feeds.keys(node, LOG)
            if (placement := self._feeds.get(node, LOG, name, AnnouncedPipeline)) is not None and placement.stages
            if 0 < placement.seconds < math.inf
        ]

    def find(self, model: str, sizes: Sizes) -> list[ReachablePipeline]:
        """Return the pipelines of members that can be reached for the model with this digest, the best first."""
        now = time.monotonic()
        self._avoided = {name: until for name, until in self._avoided.items() if until > now}
        found = [
            ReachablePipeline(placement, name, link)
            for link in self._links.links()
            for name, placement in self.of(link.peer_id)
            if placement.model == model and sizes.allow(placement.n_ctx, placement.n_ubatch)
            if name not in self._avoided
        ]
        return sorted(found, key=lambda reachable: reachable.rank)

    def avoid(self, pipeline: str) -> None:
        """Do not find the pipeline for a while: it did not answer."""
        self._avoided[pipeline] = time.monotonic() + TIMING.avoid
