"""A Dask actor on a leased worker: made when it is needed, given back when it was not asked for a while."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ainet.engine.worker_pool import Purpose
from ainet.errors import NotEnough
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Coroutine

    from ainet.engine.engine import Engine
    from ainet.engine.worker_pool import WorkerLease, WorkerPool
    from ainet.timing import Timing


class WorkerLost(Exception):
    """The worker ended while it was asked."""


class LeasedActor:
    """Has one actor.

    Parameters
    ----------
    kind, arguments
        The actor's class, and what it is made of.
    engine, workers
        The node's cluster, and who uses which worker of it.
    idle
        Seconds without a question after which the worker is given back.
    purpose
        What the worker is for.
    retire
        Whether the worker ends then: what the actor loads would stay in its memory.
    """

    def __init__(
        self,
        kind: type,
        *arguments: Any,
        engine: Engine,
        workers: WorkerPool,
        log: logging.Logger,
        timing: Timing,
        idle: float,
        purpose: Purpose = Purpose.EMBEDDINGS,
        retire: bool = False,
    ) -> None:
        self._kind, self._arguments = kind, arguments
        self._engine, self._workers, self._log, self._timing = engine, workers, log, timing
        self._seconds, self._purpose, self._retire = idle, purpose, retire
        self._lease: WorkerLease | None = None
        self._actor: Any = None
        self._lock = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._calls = 0
        self._ending = Tasks("A worker was not given back", log)

    @property
    def is_ready(self) -> bool:
        """Whether it can answer at once."""
        lease = self._lease
        return self._actor is not None and lease is not None and not (lease.wanted.is_set() or lease.lost.is_set())

    async def call(self, method: str, *arguments: Any, seconds: float) -> Any:
        """Ask the actor; waits while all workers are used for something more important.

        Raises
        ------
        WorkerLost
            The worker ended meanwhile.
        TimeoutError
            There was no answer within this time; the worker is ended.
        """
        self._calls += 1
        try:
            async with self._lock:
                lease = await self._ready()
                work = getattr(self._actor, method)(*arguments)
            try:
                return await _unless_lost(lease, _awaited(work), seconds)
            except WorkerLost:
                if self._lease is lease:
                    self.release()
                raise
            except TimeoutError:
                if self._lease is lease:
                    self._lease = self._actor = None
                await self._end(lease)  # there is no other way to end what it does
                raise
        finally:
            self._calls -= 1
            if self._idle is not None:
                self._idle.cancel()
            self._idle = asyncio.get_running_loop().call_later(self._seconds, self._release_if_idle)

    def release(self) -> None:
        """Give the worker back, if there is one."""
        if self._idle is not None:
            self._idle.cancel()
        lease, self._lease, self._actor = self._lease, None, None
        if lease is not None:
            if self._retire:
                self._ending.spawn(self._end(lease))
            else:
                lease.release()

    def _release_if_idle(self) -> None:
        if not self._calls:
            self.release()

    async def stop(self) -> None:
        """Give the worker back at once, whatever it does."""
        self._retire = False  # all workers end with the engine
        self.release()
        await self._ending.stop()

    async def _end(self, lease: WorkerLease) -> None:
        try:
            await self._engine.retire(lease.worker.address)
        finally:
            lease.release()

    async def _ready(self) -> WorkerLease:
        """Return the lease of the actor's worker."""
        if self._lease is not None and not self.is_ready:
            self.release()
        while self._lease is None:
            lease = None
            try:
                lease = await self._workers.lease(self._purpose)
                made = self._engine.actor(self._kind, *self._arguments, address=lease.worker.address)
                self._actor = await _unless_lost(lease, made, self._timing.parse)
                self._lease = lease
            except (NotEnough, WorkerLost, TimeoutError) as exc:
                if lease is not None:
                    lease.release()
                self._log.info("No worker can be had now: %r.", exc)
                await asyncio.sleep(self._timing.context_again)
            except BaseException:
                if lease is not None:
                    lease.release()
                raise
        return self._lease


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


async def _unless_lost(lease: WorkerLease, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """Return what comes of `work`; raises `WorkerLost` when the worker is gone, `TimeoutError` when time is over."""
    asked, lost = asyncio.ensure_future(work), asyncio.ensure_future(lease.lost.wait())
    try:
        done, _ = await asyncio.wait({asked, lost}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if lost in done or lease.lost.is_set():
            raise WorkerLost
        if not done:
            raise TimeoutError
        try:
            return asked.result()
        except (OSError, ValueError) as exc:  # Dask's words for a worker whose end is known to it already
            raise WorkerLost from exc
    finally:
        for task in (asked, lost):
            task.cancel()
        await asyncio.gather(asked, lost, return_exceptions=True)
