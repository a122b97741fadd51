"""The end of a node: what was started is stopped in the opposite order, whatever becomes of the others' ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")


class Closing:
    """What there is to stop. A step that fails (a full disk, a folder that is gone) or hangs keeps none from running.

    Parameters
    ----------
    log
        For steps that fail.
    patience
        Seconds that all steps have together; each has a moment even when others have used them up. Contexts have the
        time that they take: they bound themselves.
    """

    def __init__(self, log: logging.Logger, patience: float) -> None:
        self._log, self._patience = log, patience
        self._steps: list[tuple[str, Callable[[], Awaitable[object]], bool]] = []

    def callback(self, function: Callable[[], object]) -> None:
        """Call a function at the end."""

        async def call() -> None:
            function()

        self._steps.append((_name(function), call, True))

    def push_async_callback(self, function: Callable[[], Awaitable[object]]) -> None:
        """Await a function at the end."""
        self._steps.append((_name(function), function, True))

    async def enter_async_context(self, context: AbstractAsyncContextManager[T, Any]) -> T:
        """Enter a context, and leave it at the end."""
        entered = await context.__aenter__()
        self._steps.append((type(context).__name__, lambda: context.__aexit__(None, None, None), False))
        return entered

    async def aclose(self) -> None:
        """Do all steps, the last one first; raises nothing but that it was cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        cancelled: asyncio.CancelledError | None = None
        while self._steps:
            name, step, is_bounded = self._steps.pop()
            try:
                async with asyncio.timeout_at(max(deadline, loop.time() + self._patience / 20) if is_bounded else None):
                    await step()
            except asyncio.CancelledError as exc:
                cancelled = exc
            except TimeoutError:
                self._log.warning("%s does not stop; the rest is stopped without it.", name)
            except Exception as exc:
                self._log.warning("%s did not stop cleanly: %s: %s", name, type(exc).__name__, exc)
        if cancelled is not None:
            raise cancelled


def _name(function: Callable[[], object]) -> str:
    owner = getattr(function, "__self__", None)
    return type(owner).__name__ if owner is not None else getattr(function, "__qualname__", repr(function))
