"""Several answers side by side, as one stream of events."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeAlias

from ainet.api.generate import Done, Event, GenerateRequest, Start, Text, Timings
from ainet.errors import AinetError, Busy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

#: Answers of one request that grow at the same time; the others wait here, as a node's queue is for everybody.
AT_ONCE = 4
#: Events that wait for whoever hears them.
MOST_WAITING = 64

#: Which answer, from 0, and what is told of it.
Numbered: TypeAlias = tuple[int, Event]


async def several(
    generate: Callable[[GenerateRequest], AsyncGenerator[Event, None]], groups: Sequence[Sequence[GenerateRequest]]
) -> AsyncGenerator[Numbered, None]:
    """Answer requests; the first failure ends all of them.

    Parameters
    ----------
    generate
        Answers one; see `Node.generate`.
    groups
        Requests with the same prompt: the others of a group begin when the first has read it, so that it is read once.
    """
    if len(groups) == 1 and len(groups[0]) == 1:
        async with contextlib.aclosing(generate(groups[0][0])) as events:
            async for event in events:
                yield 0, event
        return
    running = _Running(generate)
    number = 0
    for group in groups:
        is_read = asyncio.Event()
        for i, request in enumerate(group):
            running.begin(number, request, is_read, is_first=i == 0)
            number += 1
    try:
        while number:
            told = await running.told.get()
            if told is None:
                number -= 1
            elif isinstance(told, BaseException):
                raise told
            else:
                running.heard()
                yield told
    finally:
        await running.end()


class _Running:
    """Answers that grow, or are about to."""

    def __init__(self, generate: Callable[[GenerateRequest], AsyncGenerator[Event, None]]) -> None:
        self.told: asyncio.Queue[Numbered | BaseException | None] = asyncio.Queue()
        self._generate = generate
        self._room = asyncio.Semaphore(AT_ONCE)
        #: How many events wait to be heard.
        self._unheard = asyncio.Semaphore(MOST_WAITING)
        self._tasks: list[asyncio.Task[None]] = []
        self._n_growing = 0
        self._has_begun = False
        #: Set, and replaced by another one, when an answer ends.
        self._one_ended = asyncio.Event()

    def begin(self, number: int, request: GenerateRequest, is_read: asyncio.Event, *, is_first: bool) -> None:
        """Let an answer grow when its turn comes."""
        task = asyncio.create_task(self._run(number, request, is_read, is_first=is_first))
        task.add_done_callback(self._tell_end)
        self._tasks.append(task)

    def heard(self) -> None:
        """Let the next event come."""
        self._unheard.release()

    async def end(self) -> None:
        """End what still grows."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _tell_end(self, task: asyncio.Task[None]) -> None:
        self.told.put_nowait(AinetError("An answer was cancelled.") if task.cancelled() else task.exception())

    async def _run(self, number: int, request: GenerateRequest, is_read: asyncio.Event, *, is_first: bool) -> None:
        try:
            if not is_first:
                await is_read.wait()
            async with self._room:
                one_ended = self._one_ended
                while not await self._grow(number, request, is_read, one_ended):
                    await one_ended.wait()
                    one_ended = self._one_ended
        finally:
            is_read.set()

    async def _grow(
        self, number: int, request: GenerateRequest, is_read: asyncio.Event, one_ended: asyncio.Event
    ) -> bool:
        """Tell of an answer; returns whether there was room for it, beside the others of the same request."""
        self._n_growing += 1
        has_begun = False
        try:
            async with contextlib.aclosing(self._generate(request)) as events:
                async for event in events:
                    if isinstance(event, Text | Done):
                        is_read.set()
                    has_begun = has_begun or isinstance(event, Start)
                    self._has_begun = self._has_begun or has_begun
                    await self._unheard.acquire()
                    self.told.put_nowait((number, event))
        except Busy as exc:
            if self._has_begun and not has_begun and exc.details.get("used_up"):
                self.told.put_nowait((number, _empty(request, exc.message)))
            elif has_begun or exc.details.get("used_up") or (self._n_growing == 1 and not one_ended.is_set()):
                raise
            else:
                self._n_growing -= 1
                return False
        except BaseException:
            self._ended()
            raise
        self._ended()
        return True

    def _ended(self) -> None:
        self._n_growing -= 1
        self._one_ended.set()
        self._one_ended = asyncio.Event()


def _empty(request: GenerateRequest, why: str) -> Done:
    """Return the end of an answer for which nothing was left."""
    return Done(
        finish="length",
        text="",
        tokens=[],
        model=request.model or "",
        seed=request.seed,
        placement=[],
        received={},
        timings=Timings(),
        notes=[why],
    )
