"""The worker that reads files for the context: leased when there is something to read, given back when there is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.engine.worker_pool import Purpose
from ainet.errors import NotEnough, UsageError
from ainet.passages.actor import PassageActor
from ainet.storage.records import Passage

if TYPE_CHECKING:
    import logging
    from collections.abc import Coroutine

    from ainet.engine.engine import Engine
    from ainet.engine.worker_pool import WorkerLease, WorkerPool
    from ainet.timing import Timing

#: How often a file is read that ends the process which reads it: something else may have ended it the first time.
TRIES = 2


class ContextWorker:
    """Has files read in a worker of the engine.

    Parameters
    ----------
    engine, workers
        The node's cluster, and who uses which worker of it.
    log
        For workers that are lost.
    """

    def __init__(self, engine: Engine, workers: WorkerPool, log: logging.Logger, timing: Timing) -> None:
        self._engine, self._workers, self._log, self._timing = engine, workers, log, timing
        self._lease: WorkerLease | None = None
        self._actor: Any = None
        self._lock = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None

    async def parse(self, path: str, data: bytes) -> list[Passage]:
        """Return the passages of a file.

        Raises
        ------
        UsageError
            It cannot be read: the message goes on after its name.
        """
        async with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            try:
                for _ in range(TRIES):
                    found = await self._try(path, data)
                    if found is not None:
                        passages, problem = found
                        if problem:
                            raise UsageError(problem)
                        return msgspec.msgpack.decode(passages, type=list[Passage])
                raise UsageError("ends the process that reads it")
            finally:
                self._idle = asyncio.get_running_loop().call_later(self._timing.context_idle, self.release)

    def release(self) -> None:
        """Give the worker back, if there is one."""
        if self._idle is not None:
            self._idle.cancel()
        if self._lease is not None:
            self._lease.release()
        self._lease = self._actor = None

    async def _try(self, path: str, data: bytes) -> tuple[bytes, str] | None:
        """Return what the worker found, or None where it was lost."""
        lease = await self._ready()
        try:
            found: tuple[bytes, str] = await _unless_lost(lease, self._ask(path, data), self._timing.parse)
        except _Lost:
            self.release()
            self._log.info("A worker was lost while it read %s.", path)
            return None
        except TimeoutError as exc:
            self.release()
            await self._engine.retire(lease.worker.address)  # there is no other way to end what it does
            raise UsageError(f"takes longer than {self._timing.parse:.0f} seconds to read") from exc
        return found

    async def _ask(self, path: str, data: bytes) -> Any:
        return await self._actor.parse(path, data)

    async def _ready(self) -> WorkerLease:
        """Return the lease of a worker that can read; waits while all are used for something more important."""
        if self._lease is not None and (self._lease.wanted.is_set() or self._lease.lost.is_set()):
            self.release()
        while self._lease is None:
            try:
                self._lease = await self._workers.lease(Purpose.EMBEDDINGS)
                made = self._engine.actor(PassageActor, address=self._lease.worker.address)
                self._actor = await _unless_lost(self._lease, made, self._timing.parse)
            except (NotEnough, _Lost, TimeoutError) as exc:
                self.release()
                self._log.info("No worker can read files now: %r.", exc)
                await asyncio.sleep(self._timing.context_again)
            except BaseException:
                self.release()
                raise
        return self._lease


class _Lost(Exception):
    """The worker is gone."""


async def _unless_lost(lease: WorkerLease, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """Return what comes of `work`; raises `_Lost` when the worker is gone, `TimeoutError` when it takes too long."""
    asked, lost = asyncio.ensure_future(work), asyncio.ensure_future(lease.lost.wait())
    try:
        done, _ = await asyncio.wait({asked, lost}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if lost in done or lease.lost.is_set():
            raise _Lost
        if not done:
            raise TimeoutError
        try:
            return asked.result()
        except (OSError, ValueError) as exc:  # Dask's words for a worker whose end is known to it already
            raise _Lost from exc
    finally:
        for task in (asked, lost):
            task.cancel()
        await asyncio.gather(asked, lost, return_exceptions=True)
