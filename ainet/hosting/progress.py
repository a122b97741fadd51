"""Progress of a stage while it is loaded: bytes that are written, layers that llama.cpp has read."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from ainet.errors import AinetError
from ainet.hosting.requests import LoadProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ainet.hosting.hosted_stage import HostedStage

T = TypeVar("T")

#: Seconds between two reports.
OFTEN = 0.15


def told_in_thread(progress: Callable[[LoadProgress], None], text: str) -> Callable[[int, int], None]:
    """Return what a thread calls with bytes done and bytes in all; the event loop that runs now hears of it."""
    loop = asyncio.get_running_loop()
    told = 0.0

    def report(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= OFTEN or done == total:
            told = now
            loop.call_soon_threadsafe(progress, LoadProgress(text, done, total))

    return report


async def told_while(
    loading: Coroutine[object, object, T],
    stage: HostedStage,
    text: str,
    progress: Callable[[LoadProgress], None] | None,
) -> T:
    """Return what `loading` returns; meanwhile `progress` hears how many of the stage's layers are loaded."""
    task = asyncio.create_task(loading)
    n_layers = stage.spec.last_layer - stage.spec.first_layer + 1
    try:
        while progress is not None and not (await asyncio.wait([task], timeout=OFTEN))[0]:
            try:
                part = await asyncio.wait_for(stage.actor.loaded_part(), 1.0)
            except (AinetError, OSError, RuntimeError, TimeoutError, AttributeError):
                continue  # whoever loads it hears what is wrong
            progress(LoadProgress(text, int(part * n_layers), n_layers, unit="layers"))
        return await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
