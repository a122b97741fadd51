"""The process of a lent cluster's scheduler, on the device of the member who asked for it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, ClassVar

from ainet.engine.program import Program, main

if TYPE_CHECKING:
    from ainet.lending.servers import LendingScheduler


class SchedulerProgram(Program):
    """Commands of the scheduler process."""

    commands: ClassVar[frozenset[str]] = frozenset({"start", "revoke", "workers"})
    _scheduler: LendingScheduler | None = None

    async def start(self, ca: str, cert: str, key: str, host: str, idle_seconds: float) -> dict[str, Any]:
        """Start the scheduler on `host`; it ends when nobody's client was connected for `idle_seconds`."""
        from ainet.engine.certificates import DaskCredentials
        from ainet.engine.servers import configure
        from ainet.lending.servers import LendingScheduler, TellRevoked

        configure(str(self.run_dir))
        self._scheduler = await LendingScheduler(
            host=host,
            port=0,
            protocol="tls://",
            security=DaskCredentials(ca, cert, key).security(),
            dashboard=False,
            plugins=[TellRevoked()],
        )
        self._watcher = asyncio.create_task(self._watch_clients(self._scheduler, idle_seconds))
        return {"address": self._scheduler.address}

    async def revoke(self, serials: list[str]) -> None:
        """Cut and refuse the certificates with these serial numbers, here and on every worker."""
        assert self._scheduler is not None  # noqa: S101 - `start` comes first
        await self._scheduler.revoke_everywhere(serials)

    async def workers(self) -> list[dict[str, Any]]:
        """Return address, pid and name of every worker that is connected."""
        assert self._scheduler is not None  # noqa: S101 - `start` comes first
        return [
            {"address": worker.address, "pid": worker.pid, "name": str(worker.name)}
            for worker in self._scheduler.workers.values()
        ]

    async def stop(self) -> None:
        """Close the scheduler, which closes its workers."""
        if self._scheduler is not None:
            self._watcher.cancel()
            await self._scheduler.close()

    async def _watch_clients(self, scheduler: LendingScheduler, idle_seconds: float) -> None:
        last = time.monotonic()
        while time.monotonic() - last < idle_seconds:
            if scheduler.has_clients:
                last = time.monotonic()
            await asyncio.sleep(min(1.0, idle_seconds / 4))
        self.finished.set()


if __name__ == "__main__":
    main(SchedulerProgram)
