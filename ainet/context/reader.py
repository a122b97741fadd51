"""Reading files in a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ainet.context.leased_actor import LeasedActor, WorkerLost
from ainet.errors import UsageError
from ainet.passages.actor import PassageActor
from ainet.storage.records import Passage

if TYPE_CHECKING:
    import logging

    from ainet.engine.engine import Engine
    from ainet.engine.worker_pool import WorkerPool
    from ainet.timing import Timing

#: How often a file is read that ends the process which reads it: something else may have ended it the first time.
TRIES = 2


class Reader:
    """Has files read in a worker of the engine.

    Parameters
    ----------
    engine, workers
        The node's cluster, and who uses which worker of it.
    log
        For workers that are lost.
    """

    def __init__(self, engine: Engine, workers: WorkerPool, log: logging.Logger, timing: Timing) -> None:
        self._actor = LeasedActor(
            PassageActor, engine=engine, workers=workers, log=log, timing=timing, idle=timing.context_idle
        )
        self._log, self._timing = log, timing

    async def parse(self, path: str, data: bytes) -> list[Passage]:
        """Return the passages of a file.

        Raises
        ------
        UsageError
            It cannot be read: the message goes on after its name.
        """
        for _ in range(TRIES):
            try:
                passages, problem = await self._actor.call("parse", path, data, seconds=self._timing.parse)
            except WorkerLost:
                self._log.info("A worker was lost while it read %s.", path)
            except TimeoutError as exc:
                raise UsageError(f"takes longer than {self._timing.parse:.0f} seconds to read") from exc
            else:
                if problem:
                    raise UsageError(problem)
                return msgspec.msgpack.decode(passages, type=list[Passage])
        raise UsageError("ends the process that reads it")

    async def stop(self) -> None:
        """Give the worker back."""
        await self._actor.stop()
