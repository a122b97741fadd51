"""A small model on this device that guesses what a large one will say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ainet.errors import AinetError

if TYPE_CHECKING:
    import logging

    from ainet.executor.pipeline import Pipeline
    from ainet.resources.memory import Memory


class DraftModel:
    """Continues texts, one at a time.

    Parameters
    ----------
    pipeline
        The whole model on one stage, which nobody else uses.
    log
        For what ends it: answers go on without.
    """

    def __init__(self, pipeline: Pipeline, log: logging.Logger) -> None:
        self.pipeline = pipeline
        self._log = log
        self._text: list[int] = []  # what the pipeline was asked to continue last
        self._lock = asyncio.Lock()
        self._failure: asyncio.Task[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether it guesses no more."""
        return self._failure is not None or not self.pipeline.usable

    @property
    def memory(self) -> dict[str, Memory]:
        """The memory that it takes on each node (by id)."""
        return {} if self.closed else self.pipeline.memory

    async def guess(self, text: list[int], most: int) -> list[int]:
        """Return the most likely tokens to follow `text`; none where it cannot say."""
        async with self._lock:
            if self.closed or len(text) >= self.pipeline.plan.n_ctx:
                return []
            begin = _common(self._text, text)
            self._text = []
            try:
                tokens = await self.pipeline.guess(begin, text[begin:], most)
            except AinetError as exc:
                self._log.warning("%s guesses no more: %s", self.pipeline.model, exc.message)
                self._failure = asyncio.create_task(self.pipeline.close())
                return []
            self._text = text
            return tokens

    async def close(self) -> None:
        if self._failure is not None:
            await self._failure
        else:
            await self.pipeline.close()


def _common(one: list[int], other: list[int]) -> int:
    """Return how many tokens at the beginning are the same."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))
