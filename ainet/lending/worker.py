"""The process of a worker that is lent to another member, apart from the workers of the stages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from ainet.engine.program import Program, main
from ainet.timing import TIMING

if TYPE_CHECKING:
    from ainet.lending.servers import LentDaskWorker

#: Exit status of a worker that wants to be started again.
RESTART = 3


class WorkerProgram(Program):
    """Commands of a lent worker's process."""

    commands: ClassVar[frozenset[str]] = frozenset({"start"})
    _worker: LentDaskWorker | None = None

    async def start(
        self,
        ca: str,
        cert: str,
        key: str,
        *,
        scheduler: str,
        name: str,
        host: str,
        port: int,
        threads: int,
        memory: int,
    ) -> dict[str, Any]:
        """Start a worker for the scheduler at this address; it ends with its connection there."""
        from ainet.engine.certificates import DaskCredentials
        from ainet.engine.servers import configure
        from ainet.lending.servers import LentDaskWorker

        configure(str(self.run_dir))
        self._worker = await LentDaskWorker(
            scheduler,
            name=name,
            nthreads=threads,
            memory_limit=memory,
            host=host,
            port=port,
            protocol="tls://",
            security=DaskCredentials(ca, cert, key).security(),
            local_directory=str(self.run_dir),
            death_timeout=TIMING.lent_dial,
        )
        self._closing = asyncio.create_task(self._end_with(self._worker))
        return {"address": self._worker.address}

    async def stop(self) -> None:
        if self._worker is not None:
            await self._worker.close(timeout=2, executor_wait=False)

    async def _end_with(self, worker: LentDaskWorker) -> None:
        await worker.finished()
        self.exit_code = RESTART if worker.restarting else 0
        self.finished.set()


if __name__ == "__main__":
    main(WorkerProgram)
