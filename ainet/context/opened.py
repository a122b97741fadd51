"""What there is once the node knows files: the storage, and what keeps it up to date."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ainet.context.folders import LONGEST_REST, REST, Folders
from ainet.context.reader import Reader
from ainet.context.vectors import ContextVectors
from ainet.errors import AinetError
from ainet.replication.replication import Replication
from ainet.replication.shared_vectors import SharedVectors
from ainet.resources.work import NoteWork, unmetered
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from pathlib import Path

    from ainet.engine.engine import Engine
    from ainet.engine.worker_pool import WorkerPool
    from ainet.links.links import Links
    from ainet.storage.hybrid import HybridStorage
    from ainet.swarm.feeds import Feeds
    from ainet.timing import Timing

VECTORS = "vectors"


class Opened:
    """The storage at work.

    Parameters
    ----------
    storage, folder
        The storage, and its folder.
    better
        Path of an embedding model; see `VectorActor`.
    problem
        Why there is none, where one was wished.
    disk
        Bytes that documents of other devices may take.
    removed
        Called after something has become unknown.
    """

    def __init__(
        self,
        storage: HybridStorage,
        folder: Path,
        *,
        better: str,
        problem: str,
        disk: int,
        engine: Engine,
        workers: WorkerPool,
        links: Links,
        feeds: Feeds,
        removed: Callable[[], object],
        changed: Callable[[], object] = lambda: None,
        log: logging.Logger,
        note_work: NoteWork = unmetered,
        timing: Timing,
    ) -> None:
        self.storage = storage
        #: Where it lies.
        self.folder = folder
        self._removed, self._told, self._log, self._timing = removed, changed, log, timing
        self._tasks = Tasks("What was removed is still on the disk", log)
        self._is_dirty = asyncio.Event()
        self.reader = Reader(engine, workers, log, timing)
        #: With the owner's other devices.
        self.shared_vectors = SharedVectors(storage, links)
        self.vectors = ContextVectors(
            storage,
            folder / VECTORS,
            better,
            problem=problem,
            shared=self.shared_vectors,
            engine=engine,
            workers=workers,
            log=log,
            note_work=note_work,
            timing=timing,
        )
        self.replication = Replication(
            storage.replicas,
            links=links,
            feeds=feeds,
            disk=disk,
            changed=self.vectors.notice,
            removed=self._is_dirty.set,
            log=log,
            timing=timing,
        )
        self.folders = Folders(
            storage,
            self.reader,
            changed=self._changed,
            removed=self._is_dirty.set,
            progressed=changed,
            log=log,
            timing=timing,
        )
        self.vectors.pause(self.folders.is_paused)
        self._tasks.spawn(self._keep_clean(), name="leaving nothing of what was removed")

    async def leave_nothing(self) -> None:
        """Have what was removed gone from the disk: at once, or as soon as nobody reads it."""
        self._changed()
        self._removed()
        if not await asyncio.to_thread(self.storage.scrub):
            self._is_dirty.set()

    def revoked(self, node_id: str) -> None:
        """Share nothing more with a device that is trusted no more, and know nothing more of it."""
        self._tasks.spawn(self._revoke(node_id))

    async def stop(self) -> None:
        await self.folders.stop()
        await self.replication.stop()
        await self._tasks.stop()
        await self.vectors.stop()
        await self.reader.stop()
        await asyncio.to_thread(self.storage.close)

    async def _revoke(self, node_id: str) -> None:
        await asyncio.to_thread(self.storage.unshare, node_id)
        await self.replication.keep_members()
        self._told()

    async def _keep_clean(self) -> None:
        if not await asyncio.to_thread(self.storage.is_scrubbed):  # the node ended before it was done
            self._is_dirty.set()
        while True:
            await self._is_dirty.wait()
            self._is_dirty.clear()
            begun = time.monotonic()
            try:
                await self.leave_nothing()
            except AinetError as exc:
                self._log.warning("What was removed is still on the disk: %s", exc.message)
                self._is_dirty.set()
            # Files that come and go all the time get a part of the time only.
            rest = min(REST * (time.monotonic() - begun), LONGEST_REST)
            await asyncio.sleep(self._timing.context_again if self._is_dirty.is_set() else rest)

    def _changed(self) -> None:
        self.vectors.notice()
        self.replication.notice()
        self._told()
