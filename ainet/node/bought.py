"""Questions that go to the device of another owner: only those that the owner sends there, and nothing with them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from ainet.api.models import ModelSettings
from ainet.economy.buying import USUAL_BUDGET, Wanted
from ainet.errors import AinetError, UsageError
from ainet.executor.request import to_open
from ainet.node.judging import known_model

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ainet.api.generate import Event, GenerateRequest
    from ainet.economy.buying import Buying
    from ainet.executor.provider import Provider
    from ainet.models.catalog import ModelCatalog


class Bought:
    """Answers questions for which a seller is named.

    Parameters
    ----------
    buying
        Buys answers.
    provider, catalog
        What is known here of the model that is wanted.
    """

    def __init__(self, buying: Buying, provider: Provider, catalog: ModelCatalog) -> None:
        self._buying, self._provider, self._catalog = buying, provider, catalog

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Buy the answer to `request`; yields its events.

        Raises
        ------
        UsageError
            The question may not leave the owner's devices, or makes no sense.
        AinetError
            Nobody answers it.
        """
        assert request.seller is not None  # noqa: S101 - others are answered elsewhere
        if request.private:
            raise UsageError("A private question is for this device alone: no --from with --private.")
        if request.context not in (None, "none"):
            raise UsageError("Your documents stay on your devices: no --from with --context.")
        if request.stages is not None:
            raise UsageError("Who sells an answer places the layers: no --from with --stages.")
        if request.prompt or request.suffix is not None:
            raise UsageError("Only conversations and texts are bought: no tokens and no suffix with --from.")
        if request.logprobs is not None or request.scores_prompt:
            raise UsageError(
                "Nobody could check log probabilities that are bought: leave them out, or ask without --from."
            )
        if request.budget is not None and not 0 < request.budget <= 86400:
            raise UsageError("The budget must be a time of at most a day, such as 20m.")
        settings, digest, known = ModelSettings(), None, None
        if request.model is not None:
            try:
                settings = await self._provider.settings(request.model)
                manifest = await asyncio.to_thread(self._catalog.known, request.model)
                digest, known = bytes.fromhex(manifest.digest), known_model(manifest)
            except AinetError:
                pass  # it need not be here
        opened, notes = to_open(request, settings)
        wanted = Wanted(
            opened,
            notes,
            request.model,
            digest,
            known,
            request.seller,
            USUAL_BUDGET if request.budget is None else request.budget,
            request.strangers,
        )
        async with contextlib.aclosing(self._buying.answer(wanted)) as events:
            async for event in events:
                yield event
