"""Answers of this node's pipelines while they grow."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from typing import TYPE_CHECKING

from ainet.signals import Signal
from ainet.stages.protocol.generation import Started, Text

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Iterator

    from ainet.executor.provided import Provided
    from ainet.stages.protocol.generation import Event

#: Seconds over which a speed is taken.
RECENT = 3.0


class Running:
    """An answer.

    Attributes
    ----------
    requester
        Node id of the device that asks; empty for this one.
    prompt_tokens, generated_tokens
        Tokens of its question and of what was said.
    """

    def __init__(self, pipeline: Provided, requester: str) -> None:
        self.pipeline, self.requester = pipeline, requester
        self.prompt_tokens = self.generated_tokens = 0
        self._recent: deque[tuple[float, int]] = deque()

    @property
    def tokens_per_s(self) -> float:
        """The speed of the last seconds; 0 where there is none."""
        if len(self._recent) < 2 or time.monotonic() - self._recent[-1][0] > RECENT:
            return 0.0
        (begin, before), (end, after) = self._recent[0], self._recent[-1]
        return (after - before) / (end - begin) if end > begin else 0.0

    def note(self, event: Event) -> None:
        """Note what was said."""
        if isinstance(event, Started):
            self.prompt_tokens = len(event.prompt)
        elif isinstance(event, Text):
            self.generated_tokens += len(event.tokens)
            now = time.monotonic()
            self._recent.append((now, self.generated_tokens))
            while now - self._recent[0][0] > RECENT and len(self._recent) > 2:
                self._recent.popleft()


class RunningAnswers:
    """Knows which answers grow; those of other devices' pipelines are known there."""

    def __init__(self, log: logging.Logger) -> None:
        #: An answer has begun, gone on, or ended.
        self.changed: Signal[[]] = Signal("answers go on", log)
        self._numbers = itertools.count(1)
        self._running: dict[int, Running] = {}

    def __iter__(self) -> Iterator[tuple[int, Running]]:
        """Iterate over the answers, each with a number of its own."""
        return iter(list(self._running.items()))

    async def follow(
        self, answer: AsyncGenerator[Event, None], pipeline: Provided, requester: str
    ) -> AsyncGenerator[Event, None]:
        """Pass on what a pipeline answers, and take note of it.

        Parameters
        ----------
        requester
            Node id of the device that asks; empty for this one.
        """
        async with contextlib.aclosing(answer) as events:
            if not pipeline.is_own:
                async for event in events:
                    yield event
                return
            number = next(self._numbers)
            running = self._running[number] = Running(pipeline, requester)
            self.changed.emit()
            try:
                async for event in events:
                    running.note(event)
                    self.changed.emit()
                    yield event
            finally:
                del self._running[number]
                self.changed.emit()
