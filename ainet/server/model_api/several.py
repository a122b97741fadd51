"""Several answers side by side, as one stream of events."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeAlias

from ainet.api.generate import Done, Event, GenerateRequest, Text

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
                yield told
    finally:
        await running.end()


class _Running:
    """Answers that grow, or are about to."""

    def __init__(self, generate: Callable[[GenerateRequest], AsyncGenerator[Event, None]]) -> None:
        self.told: asyncio.Queue[Numbered | BaseException | None] = asyncio.Queue(MOST_WAITING)
        self._generate = generate
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, number: int, request: GenerateRequest, is_read: asyncio.Event, *, is_first: bool) -> None:
        self._tasks.append(asyncio.create_task(self._run(number, request, is_read, is_first=is_first)))

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, number: int, request: GenerateRequest, is_read: asyncio.Event, *, is_first: bool) -> None:
        try:
            if not is_first:
                await is_read.wait()
            async with self._room, contextlib.aclosing(self._generate(request)) as events:
                async for event in events:
                    if isinstance(event, Text | Done):
                        is_read.set()
                    await self.told.put((number, event))
        except Exception as exc:
            await self.told.put(exc)
        else:
            await self.told.put(None)
