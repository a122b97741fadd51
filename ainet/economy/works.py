"""What a node can sell, as the part that sells it sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from ainet.models.tokenizer import Tokenizer
    from ainet.stages.protocol.flow import Flow
    from ainet.stages.protocol.generation import Event, Open
    from ainet.stages.protocol.sampling_params import SamplingParams


class SoldModel(NamedTuple):
    """A model that can be sold.

    Attributes
    ----------
    digest
        SHA-256 of its manifest.
    parameters
        Active ones, in millions.
    window
        Most tokens of a prompt and its answer together.
    seconds
        The time of a token (s), measured or predicted.
    slots
        Sessions that can go on at once, the owner's included.
    """

    digest: bytes
    name: str
    parameters: int
    window: int
    tokenizer: Tokenizer
    seconds: float
    slots: int


def is_called(model: SoldModel, name: str) -> bool:
    """Whether a model is called so, or has this digest in hex."""
    return name.casefold() in (model.name.casefold(), model.digest.hex())


class Ready(Protocol):
    """A model that is loaded."""

    def answer(self, request: Open, flow: Flow) -> AsyncGenerator[Event, None]:
        """Answer, as far as `flow` lets it.

        Raises
        ------
        StageLost
            A stage was lost meanwhile.
        """


class Works(Protocol):
    """The pipelines of this node, for whoever sells their answers."""

    async def models(self, names: Sequence[str], *, measure: bool = False) -> list[SoldModel]:
        """Return the models with these names, or the one that is answered with when none is named.

        Parameters
        ----------
        measure
            Whether each is loaded, so that its speed is not predicted.

        Raises
        ------
        AinetError
            One of them is unknown here, or does not fit.
        """

    async def vocabulary(self, tokenizer: Tokenizer) -> bytes:
        """Return a vocabulary of a model on this device, as it travels; raises `NotFound`."""

    def is_ready(self, model: SoldModel) -> bool:
        """Whether the model is loaded."""

    def ready(self, model: SoldModel, requester: str) -> AsyncGenerator[str | Ready, None]:
        """Yield words while a model is loaded, then the model, which stays loaded until the generator is closed.

        Parameters
        ----------
        requester
            Node id of the device for which what is done then is counted.

        Raises
        ------
        AinetError
            It cannot be loaded.
        """


class KnownModel(NamedTuple):
    """What a model is called here, its active parameters in millions, and what identifies its vocabulary."""

    name: str
    parameters: int
    vocabulary: str


class Judges(Protocol):
    """The pipelines of this owner's devices, for whoever checks answers of others."""

    @property
    def version(self) -> str:
        """Changes when the results of the same computation may."""

    async def known(self, model: bytes, name: str) -> KnownModel | None:
        """Return the model (SHA-256 of its manifest), which others call so, where a device has it."""

    async def judge(self, model: bytes, request: Open) -> list[float]:
        """Return the margins of the tokens that are expected; see `Open`.

        Raises
        ------
        AinetError
            No device has the model, or room for it.
        """

    async def continued(
        self, model: bytes, text: str, sampling: SamplingParams, most: int
    ) -> tuple[list[int], list[int]]:
        """Return the tokens of a text, and those with which the model goes on."""
