"""The pipelines of this owner's devices, for whoever checks what others have answered."""

from __future__ import annotations

import asyncio
import contextlib
from importlib.metadata import version
from typing import TYPE_CHECKING

from ainet.api.generate import GenerateRequest, Message
from ainet.economy.credits import millions
from ainet.economy.works import KnownModel
from ainet.errors import AinetError, NotFound
from ainet.stages.protocol.generation import Open, Started, Text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ainet.executor.provider import Provider
    from ainet.hosting.requests import LoadProgress
    from ainet.models.catalog import ModelCatalog
    from ainet.models.manifest import Manifest
    from ainet.stages.protocol.generation import Event
    from ainet.stages.protocol.sampling_params import SamplingParams


class Judging:
    """Reads answers with the model that they are said to be of.

    Parameters
    ----------
    provider
        The source of pipelines.
    catalog
        The models of this device.
    """

    def __init__(self, provider: Provider, catalog: ModelCatalog) -> None:
        self._provider, self._catalog = provider, catalog
        #: Changes when the results of the same computation may.
        self.version = version("llama-cpp-python")

    async def known(self, model: bytes, name: str) -> KnownModel | None:
        """Return a model that a device has; see `Judges`. A file that was never asked is read for that."""
        for called in (model.hex(), name):
            try:
                known = await asyncio.to_thread(self._catalog.known, called)
            except AinetError:
                continue
            if known.digest == model.hex():
                return known_model(known)
        try:
            known = await self._provider.manifest(model.hex())
        except AinetError:
            return None
        return known_model(known) if known.digest == model.hex() else None

    async def judge(self, model: bytes, request: Open) -> list[float]:
        """Return the margins of the tokens that are expected; see `Judges`."""
        margins: list[float] = []
        async with contextlib.aclosing(self._events(model, request)) as events:
            async for event in events:
                margins += event.margins if isinstance(event, Text) else []
        return margins

    async def continued(
        self, model: bytes, text: str, sampling: SamplingParams, most: int
    ) -> tuple[list[int], list[int]]:
        """Return the tokens of a text, and those with which the model goes on; see `Judges`."""
        prompt: list[int] = []
        tokens: list[int] = []
        request = Open(session=0, messages=[Message("user", text)], raw=True, sampling=sampling, max_tokens=most)
        async with contextlib.aclosing(self._events(model, request)) as events:
            async for event in events:
                if isinstance(event, Started):
                    prompt = event.prompt
                elif isinstance(event, Text):
                    tokens += event.tokens
        return prompt, tokens

    async def _events(self, model: bytes, request: Open) -> AsyncGenerator[Event, None]:
        def report(_: LoadProgress) -> None:
            """Nobody waits for it."""

        asked = GenerateRequest(messages=[], model=model.hex(), private=True)
        loading = self._provider.obtain(asked, "", report)
        try:
            await asyncio.wait([loading])
            if loading.cancelled():
                raise NotFound("The model was unloaded while it was being loaded.")
            pipeline = loading.result()
            async with contextlib.aclosing(pipeline.ask(request)) as events:
                async for event in events:
                    yield event
        finally:
            await self._provider.finish(loading)


def known_model(manifest: Manifest) -> KnownModel:
    """Return what others are to say of a model, too."""
    return KnownModel(manifest.name, millions(manifest.active_parameters), manifest.tokenizer.content)
