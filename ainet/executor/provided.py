"""A pipeline that answers: of this node, or loaded by another member."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ainet.api.generate import PlacedStage
    from ainet.stages.protocol.generation import Event, Open


class Provided(Protocol):
    """A pipeline that is loaded and can be asked, wherever it is."""

    @property
    def name(self) -> str:
        """The pipeline's name."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def digest(self) -> str:
        """The model's digest."""

    @property
    def placement(self) -> list[PlacedStage]:
        """The process of each range of layers."""

    @property
    def received(self) -> dict[str, int]:
        """Bytes that each node fetched to load it, by name."""

    @property
    def is_own(self) -> bool:
        """Whether it belongs to this node."""

    @property
    def unwanted(self) -> bool:
        """Whether its owner has asked to unload it."""

    def claim(self, name: str) -> None:
        """Note that somebody uses it, who asked for the model by this name."""

    def release(self) -> None:
        """Take `claim` back."""

    def abandon(self) -> None:
        """Ask it no more: it was lost."""

    def ask(self, request: Open) -> AsyncGenerator[Event, None]:
        """Answer one request; closing the generator cancels it on every stage.

        Raises
        ------
        StageLost
            It was lost.
        """
