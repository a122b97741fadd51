"""Work that goes on in the background, whose failures are noted and which ends with its owner."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ainet.errors import AinetError

if TYPE_CHECKING:
    import logging
    from collections.abc import Coroutine


class Tasks:
    """The background work of one object.

    Parameters
    ----------
    what
        Begins the line that is logged when a piece of work ends with an `AinetError`.
    log
        The destination of that line.
    """

    def __init__(self, what: str, log: logging.Logger) -> None:
        self._what, self._log = what, log
        self._running: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """Whether something goes on."""
        return bool(self._running)

    def spawn(self, work: Coroutine[Any, Any, object], name: str | None = None) -> None:
        """Do a piece of work in the background."""
        task = asyncio.create_task(self._run(work), name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: work.close())  # where it was cancelled before it began

    async def finish(self, seconds: float | None = None) -> None:
        """Wait until nothing goes on, also what was begun meanwhile, but at most this long."""
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        while self._running:
            left = None if deadline is None else deadline - asyncio.get_running_loop().time()
            if left is not None and left <= 0:
                return
            await asyncio.wait(self._running, timeout=left)

    async def stop(self) -> None:
        """Cancel what was begun."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except AinetError as exc:
            self._log.info("%s: %s", self._what, exc.message)
        except Exception:
            self._log.exception("%s.", self._what)
