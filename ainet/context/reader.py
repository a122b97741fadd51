"""Reading files in a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ainet.engine.leased_actor import LeasedActor, WorkerLost
from ainet.errors import UsageError
from ainet.passages.actor import PassageActor
from ainet.storage.records import Passage

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence

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

    async def parse(self, files: Sequence[tuple[str, bytes]]) -> list[list[Passage] | UsageError]:
        """Return the passages of files, given by their paths and bytes, or why one cannot be read.

        The message goes on after the file's name.
        """
        if len(files) > 1:
            try:
                return [_found(*one) for one in await self._ask(files)]
            except (WorkerLost, TimeoutError):
                self._log.info("A worker was lost while it read %d files: each of them is read alone.", len(files))
        return [await self._parse_alone(path, data) for path, data in files]

    async def _parse_alone(self, path: str, data: bytes) -> list[Passage] | UsageError:
        for _ in range(TRIES):
            try:
                (found,) = await self._ask([(path, data)])
            except WorkerLost:
                self._log.info("A worker was lost while it read %s.", path)
            except TimeoutError:
                return UsageError(f"takes longer than {self._timing.parse:.0f} seconds to read")
            else:
                return _found(*found)
        return UsageError("ends the process that reads it")

    async def _ask(self, files: Sequence[tuple[str, bytes]]) -> list[tuple[bytes, str]]:
        found: list[tuple[bytes, str]] = await self._actor.call("parse", list(files), seconds=self._timing.parse)
        return found

    async def stop(self) -> None:
        """Give the worker back."""
        await self._actor.stop()


def _found(passages: bytes, problem: str) -> list[Passage] | UsageError:
    return UsageError(problem) if problem else msgspec.msgpack.decode(passages, type=list[Passage])
