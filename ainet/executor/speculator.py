"""Guessing ahead of an answer with a small model on this device, while the large one is still at work elsewhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from ainet.stages.protocol.generation import Started, Text
from ainet.stages.sessions.drafts import MAX_DRAFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from ainet.resources.memory import Memory
    from ainet.stages.protocol.generation import Event, Open

#: Tokens that are guessed at once: the text may have gone on by then.
STEP = 4
#: Guesses of which a smaller share comes true are not worth the work; for this many tokens there are none then, and for
#: more each time, as long as none is used.
LEAST_AGREEMENT = 0.3
PAUSE, LONGEST_PAUSE = 64, 4096
#: The last stage makes no use of guesses when it tried none for this many tokens.
UNUSED = 48
WEIGHT = 0.1


class Guesser(Protocol):
    """Something that guesses what follows a text; a small model, usually."""

    @property
    def closed(self) -> bool:
        """Whether it guesses no more."""

    @property
    def memory(self) -> dict[str, Memory]:
        """The memory that it takes on each node (by id)."""

    async def guess(self, text: list[int], most: int) -> list[int]:
        """Return the most likely tokens to follow `text`; none where it cannot say."""

    async def close(self) -> None:
        """Guess no more."""


class Speculator:
    """Guesses what follows in one answer, and tells whoever computes it.

    Parameters
    ----------
    model
        The small model.
    request
        The request.
    suggest
        Takes how many tokens of the text are known, and those that are guessed to follow.
    """

    def __init__(self, model: Guesser, request: Open, suggest: Callable[[int, list[int]], None]) -> None:
        self._model, self._suggest = model, suggest
        self._resumed = list(request.resume.generated) if request.resume is not None else []
        self._text: list[int] = []
        self._guess: list[int] = []
        self._agreement = 0.7
        self._pause = self._unused = 0
        self._next_pause = PAUSE
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="guesses")

    def receive(self, event: Event) -> None:
        """Note what the large model said."""
        if isinstance(event, Started):
            self._text = [*event.prompt, *self._resumed]
        elif isinstance(event, Text):
            for token in event.tokens:
                self._judge(token)
            if any(lap.rows > 1 for lap in event.laps):
                self._unused, self._next_pause = 0, PAUSE
            if self._unused >= UNUSED or self._agreement < LEAST_AGREEMENT:
                self._pause, self._unused, self._agreement = self._next_pause, -self._next_pause, 0.5
                self._next_pause = min(2 * self._next_pause, LONGEST_PAUSE)
        else:
            return
        self._changed.set()

    async def stop(self) -> None:
        """Guess no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _judge(self, token: int) -> None:
        if self._guess:
            came_true = self._guess[0] == token
            self._agreement += WEIGHT * (came_true - self._agreement)
            self._guess = self._guess[1:] if came_true else []
        self._text.append(token)
        self._pause = max(0, self._pause - 1)
        self._unused += 1

    async def _run(self) -> None:
        while not self._model.closed:
            await self._changed.wait()
            self._changed.clear()
            while not self._pause and self._text and len(self._guess) < MAX_DRAFT:
                text = [*self._text, *self._guess]
                tokens = await self._model.guess(text, STEP)
                if not tokens:
                    break
                n = len(self._text)
                ahead = [*text, *tokens]
                if n < len(ahead) and ahead[:n] == self._text:  # else the large model was faster, or said otherwise
                    self._guess = ahead[n:]
                    self._suggest(n, self._guess)
