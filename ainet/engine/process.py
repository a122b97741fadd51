"""The process of a node's own Dask cluster: a scheduler and Nannies, with one worker process beneath each Nanny."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from ainet.engine.forks import IS_POSSIBLE, serve_forks, use_forks
from ainet.engine.program import Program, main

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from distributed import Nanny

HOST = "127.0.0.1"


class EngineProgram(Program):
    """Commands of the engine process."""

    commands: ClassVar[frozenset[str]] = frozenset({"start", "grow", "retire", "workers"})
    #: Whether workers are forks of what this process was at its beginning.
    has_forks: ClassVar[bool] = False

    def __init__(self, run_dir: Path, answers: int) -> None:
        super().__init__(run_dir, answers)
        self._scheduler: Any = None  # an ActorScheduler, from `start` on
        self._nannies: list[Nanny] = []
        self._names = 0
        self._growing = asyncio.Lock()

    @classmethod
    def prepare(cls, run_dir: Path, pipes: Sequence[int]) -> None:
        """Import what workers need, of which they will be forks."""
        if IS_POSSIBLE:
            from ainet.engine.servers import WORKER_MODULES

            serve_forks(run_dir, pipes, ["ainet.engine.servers", *WORKER_MODULES])
            cls.has_forks = True

    async def start(self, ca: str, cert: str, key: str) -> dict[str, Any]:
        """Start the scheduler; workers come with `grow`."""
        from ainet.engine.certificates import DaskCredentials
        from ainet.engine.servers import ACTORS_ONLY, ActorScheduler, configure

        configure(str(self.run_dir), ACTORS_ONLY)
        if self.has_forks:
            use_forks()
        self._security = DaskCredentials(ca, cert, key).security()
        self._scheduler = await ActorScheduler(
            host=HOST, port=0, protocol="tls://", security=self._security, dashboard=False
        )
        return {"address": self._scheduler.address}

    async def grow(self, n: int) -> list[dict[str, Any]]:
        """Have at least `n` workers, and return all."""
        async with self._growing:
            running = []
            for nanny in self._nannies:
                # One whose worker fell over while starting does not try again.
                if nanny.process is not None and nanny.process.status.name in {"starting", "running"}:
                    running.append(nanny)
                else:
                    await nanny.close(timeout=1)
            started = await asyncio.gather(
                *(self._start_nanny() for _ in range(n - len(running))), return_exceptions=True
            )
            self._nannies = running + [nanny for nanny in started if not isinstance(nanny, BaseException)]
            for failure in started:
                if isinstance(failure, BaseException):
                    raise failure
            while len(self._scheduler.workers) < n:  # noqa: ASYNC110 - a Nanny is bringing a lost worker back
                await asyncio.sleep(0.02)
        return await self.workers()

    async def retire(self, address: str) -> None:
        """End the worker at `address` for good."""
        worker = self._scheduler.workers.get(address)
        for nanny in list(self._nannies):
            if worker is not None and nanny.name == worker.name:
                self._nannies.remove(nanny)
                await nanny.close(timeout=2)
        while address in self._scheduler.workers:  # noqa: ASYNC110 - its goodbye is on the way
            await asyncio.sleep(0.02)

    async def workers(self) -> list[dict[str, Any]]:
        """Return address, pid and name of every worker that is connected."""
        # A Nanny learns the address of a new worker later than the scheduler does.
        return [
            {"address": worker.address, "pid": worker.pid, "name": worker.name}
            for worker in sorted(self._scheduler.workers.values(), key=lambda worker: (len(worker.name), worker.name))
        ]

    async def stop(self) -> None:
        """Close workers, Nannies and scheduler; a worker that is still starting is killed at the end."""
        await asyncio.gather(*(nanny.close(timeout=2) for nanny in self._nannies))
        if self._scheduler is not None:
            await self._scheduler.close()

    async def _start_nanny(self) -> Nanny:
        from distributed import Nanny

        from ainet.engine.servers import LeanWorker

        self._names += 1
        return await Nanny(
            self._scheduler.address,
            name=f"worker-{self._names}",
            nthreads=1,
            memory_limit=0,
            host=HOST,
            protocol="tls://",
            security=self._security,
            worker_class=LeanWorker,
            local_directory=str(self.run_dir),
            dashboard=False,
        )


if __name__ == "__main__":
    main(EngineProgram)
