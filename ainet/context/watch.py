"""Waiting until something changes in folders."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from watchfiles import awatch

if TYPE_CHECKING:
    import logging
    from collections.abc import Collection

#: Changes that come within this time (milliseconds) are told together, and this long after the first one at most.
STEP, DEBOUNCE = 100, 300


class Watch:
    """Watches folders one by one, without those in them: what is ignored costs nothing.

    Attributes
    ----------
    folders
        What is watched.
    failed
        Why nothing is watched, in words; empty where it is.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self.folders: frozenset[str] = frozenset()
        self.failed = ""
        self._changed: set[str] = set()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._end = asyncio.Event()

    async def watch(self, folders: Collection[str]) -> bool:
        """Watch these folders and no others; whether others were watched before: then a look is due."""
        if frozenset(folders) == self.folders and self._task is not None and not self._task.done():
            return False
        await self.stop()
        self.folders, self.failed = frozenset(folders), ""
        if folders:
            self._end = asyncio.Event()
            self._task = asyncio.create_task(self._watch(sorted(folders)), name="watch")
        return True

    async def changes(self) -> set[str]:
        """Return the paths of what has changed since the last time; waits for some."""
        await self._news.wait()
        self._news.clear()
        found, self._changed = self._changed, set()
        return found

    async def stop(self) -> None:
        """Watch nothing any more."""
        self._end.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._task, self.folders = None, frozenset()

    async def _watch(self, folders: list[str]) -> None:
        there = await asyncio.to_thread(lambda: [folder for folder in folders if Path(folder).exists()])
        try:
            async for changes in awatch(
                *there, recursive=False, watch_filter=None, step=STEP, debounce=DEBOUNCE, stop_event=self._end
            ):
                self._changed |= {os.fspath(path) for _, path in changes}
                self._news.set()
        except (OSError, RuntimeError) as exc:  # such as the limit of what may be watched
            self.failed = f"{len(there)} folders cannot be watched ({exc})"
            self._log.warning("%s: they are looked through now and then.", self.failed)
