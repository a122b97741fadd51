"""The workers of the engine and their users: each serves one purpose at a time, and the owner's stages come first."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING

from ainet.errors import NotEnough
from ainet.tasks import Tasks
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    import logging
    from types import TracebackType

    from ainet.engine.engine import Engine, Worker


class Purpose(enum.IntEnum):
    """The purpose of a worker; where there are too few, the higher one has it."""

    TRAINING = 1
    PAID_JOB = 2
    EMBEDDINGS = 3
    STAGE = 4


class WorkerLease:
    """A worker that one holder may use until it gives the lease back. `WorkerPool.lease` makes it.

    Attributes
    ----------
    worker, purpose
        Which worker, and what for.
    wanted
        Set when something more important needs the worker: the holder gives it back within `Timing.worker_return`.
    lost
        Set when the worker is gone, or was taken away from a holder that did not give it back.
    """

    def __init__(self, pool: WorkerPool, worker: Worker, purpose: Purpose) -> None:
        self.worker, self.purpose = worker, purpose
        self.wanted = asyncio.Event()
        self.lost = asyncio.Event()
        self.released = asyncio.Event()
        self._pool = pool

    def release(self) -> None:
        """Give the worker back; a second time does nothing."""
        if not self.released.is_set():
            self.released.set()
            self._pool.take_back(self)

    async def __aenter__(self) -> WorkerLease:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class WorkerPool:
    """Leases the engine's workers.

    Parameters
    ----------
    engine
        Has the workers; one of its own grows on demand.
    log
        For workers that are taken away.
    """

    def __init__(self, engine: Engine, log: logging.Logger, *, timing: Timing = TIMING) -> None:
        self._engine = engine
        self._log = log
        self._timing = timing
        self._leases: dict[str, WorkerLease] = {}  # by the worker's address
        self._lock = asyncio.Lock()
        self._tasks = Tasks("Looking after workers failed", log)
        engine.on_worker_lost(self._lose)

    @property
    def limit(self) -> int | None:
        """Most workers that there can be; None when the engine grows on demand."""
        return None if self._engine.own else len(self._engine.workers())

    def lease_of(self, address: str) -> WorkerLease | None:
        """Return who holds the worker at this address."""
        return self._leases.get(address)

    async def lease(self, purpose: Purpose, holder: asyncio.Task[object] | None = None) -> WorkerLease:
        """Return a worker that nobody uses; one that is used for something less important is taken away for it.

        Parameters
        ----------
        holder
            When this task ends, in any way, the lease ends with it.

        Raises
        ------
        NotEnough
            All workers of an existing cluster are used for something as important.
        PeerUnreachable, UsageError, AinetError
            The engine had ended, and cannot be started.
        """
        async with self._lock:
            try:
                worker = await self._free_worker()
            except NotEnough:
                if not await self._take_away(purpose):
                    raise
                worker = await self._free_worker()
            lease = self._leases[worker.address] = WorkerLease(self, worker, purpose)
        if holder is not None:
            holder.add_done_callback(lambda _: lease.release())
        return lease

    def take_back(self, lease: WorkerLease) -> None:
        """Let others have the worker; see `WorkerLease.release`."""
        if self._leases.get(lease.worker.address) is lease:
            del self._leases[lease.worker.address]
        self._tasks.spawn(self._trim())

    def keep_spare(self) -> None:
        """Have a worker ready, soon, for what takes the place of something that is lost: starting one takes seconds."""
        self._tasks.spawn(self._start_spare())

    async def stop(self) -> None:
        """Look after workers no more."""
        await self._tasks.stop()

    async def _free_worker(self) -> Worker:
        workers = await self._engine.ensure_workers(len(self._leases) + 1)
        return next(worker for worker in workers if worker.address not in self._leases)

    async def _take_away(self, purpose: Purpose) -> bool:
        """Take a worker from what is least important; tell whether that was possible."""
        least = min(self._leases.values(), key=lambda lease: lease.purpose, default=None)
        if least is None or least.purpose >= purpose:
            return False
        self._log.info("A worker is taken from %s for %s.", least.purpose.name.lower(), purpose.name.lower())
        least.wanted.set()
        try:
            async with asyncio.timeout(self._timing.worker_return):
                await least.released.wait()
        except TimeoutError:
            least.lost.set()
            least.release()
        return True

    def _lose(self, address: str) -> None:
        lease = self._leases.get(address)
        if lease is not None:
            lease.lost.set()
            lease.release()

    async def _start_spare(self) -> None:
        await asyncio.sleep(self._timing.spare_start)
        async with self._lock:
            if self._leases and self._engine.own:
                await self._engine.ensure_workers(len(self._leases) + 1)

    async def _trim(self) -> None:
        """End workers that nobody needs any more, but keep one warm."""
        await asyncio.sleep(self._timing.worker_idle)
        async with self._lock:
            free = [worker for worker in self._engine.workers() if worker.address not in self._leases]
            for worker in free[1:]:
                await self._engine.retire(worker.address)
