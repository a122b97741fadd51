"""A pipeline of another member, asked through its owner."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ainet.api.generate import PlacedStage
from ainet.errors import NotFound, PeerUnreachable, ProtocolError, StageLost
from ainet.executor.requests import AskPipeline

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from ainet.executor.directory import ReachablePipeline
    from ainet.stages.protocol.generation import Event, Open


class PeerPipelineGone(StageLost):
    """The pipeline is not there any more, and has said nothing yet: another one can be asked."""


class PeerPipeline:
    """Asks a pipeline that another member has loaded.

    Parameters
    ----------
    reachable
        The pipeline.
    names
        The name of each member, by its id.
    lost
        Called with the pipeline's name when it was lost.
    """

    is_own = False
    #: Whether its owner unloads it, only the owner knows.
    unwanted = False

    def __init__(
        self, reachable: ReachablePipeline, names: Mapping[str, str], *, lost: Callable[[str], object]
    ) -> None:
        self.reachable = reachable
        self._names = names
        self._lost = lost

    @property
    def name(self) -> str:
        return self.reachable.pipeline

    @property
    def model(self) -> str:
        return self.reachable.placement.name

    @property
    def digest(self) -> str:
        return self.reachable.placement.model

    @property
    def placement(self) -> list[PlacedStage]:
        """The process of each range of layers."""
        return [
            PlacedStage(self._names.get(stage.node, stage.node[:8]), stage.pid, stage.first_layer, stage.last_layer)
            for stage in self.reachable.placement.stages
        ]

    @property
    def received(self) -> dict[str, int]:
        """Nothing was fetched to load it: it was loaded already."""
        return {}

    def claim(self, _name: str) -> None:
        """Note nothing: the owner counts who uses it."""

    def release(self) -> None:
        """Note nothing: the owner counts who uses it."""

    def abandon(self) -> None:
        """Do not find it for a while."""
        self._lost(self.name)

    async def ask(self, request: Open) -> AsyncGenerator[Event, None]:
        """Answer one request; closing the generator cancels it on every stage.

        Raises
        ------
        PeerPipelineGone
            It cannot be asked; nothing was said yet.
        StageLost
            It was lost while it answered.
        """
        link, said = self.reachable.link, False
        try:
            async with contextlib.aclosing(link.stream(AskPipeline(self.name, request))) as items:
                async for item in items:
                    said = True
                    yield item.event
        except (NotFound, PeerUnreachable, ProtocolError, StageLost) as exc:
            if not said:
                raise PeerPipelineGone(exc.message) from exc
            raise StageLost(
                f"{link.peer_name}, which has {self.model} loaded, was lost while it answered: {exc.message}"
            ) from exc
