"""The Dask servers of a lent cluster: they can stop accepting a certificate while they run.

Only child processes import this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from typing import Any

from distributed import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from ainet.engine.servers import LeanScheduler, LeanWorker
from ainet.timing import TIMING

logger = logging.getLogger("distributed.ainet")


def serial_number(comm: Any) -> int:
    """Return the serial number of the certificate at the other end of a connection."""
    return int(comm.extra_info["peercert"]["serialNumber"], 16)


class Revocable:
    """Cuts, and from then on refuses, the connections of certificates that were revoked; by serial number."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.revoked: set[int] = set()
        self._connections: dict[int, weakref.WeakSet[Any]] = {}
        super().__init__(*arguments, **options)

    def handle_comm(self, comm: Any) -> Any:
        """Serve a new connection, unless its certificate was revoked."""
        serial = serial_number(comm)
        if serial in self.revoked:
            logger.warning("Refused %s: its certificate was revoked.", comm.peer_address)
            comm.abort()
        self._connections.setdefault(serial, weakref.WeakSet()).add(comm)
        return super().handle_comm(comm)  # type: ignore[misc]

    def revoke(self, serial: str) -> None:
        """Revoke the certificate with this serial number (hexadecimal)."""
        number = int(serial, 16)
        self.revoked.add(number)
        for comm in list(self._connections.pop(number, ())):
            comm.abort()


class LendingScheduler(Revocable, LeanScheduler):
    """The scheduler of a lent cluster."""

    def __init__(self, **options: Any) -> None:
        self._addresses: dict[int, set[str]] = {}
        super().__init__(**options)

    async def add_worker(self, comm: Any, *, address: str, **options: Any) -> None:
        """Serve a worker; see `distributed.Scheduler.add_worker`."""
        self._addresses.setdefault(serial_number(comm), set()).add(address)
        await super().add_worker(comm, address=address, **options)

    async def revoke_everywhere(self, serials: list[str]) -> None:
        """Revoke certificates here and on every worker, and forget the workers that have them."""
        for serial in serials:
            self.revoke(serial)
        for serial in serials:
            for address in self._addresses.pop(int(serial, 16), ()):
                await self.remove_worker(address=address, stimulus_id="certificate-revoked")
        await asyncio.gather(*(self.notify(worker, serials) for worker in self.workers))

    async def notify(self, worker: str, serials: list[str]) -> None:
        """Tell one worker which certificates were revoked; one that does not answer is on its way out."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TIMING.lent_told):
                message = {"op": "revoke", "serials": serials}
                await self.broadcast(msg=message, workers=[worker], on_error="ignore")

    @property
    def has_clients(self) -> bool:
        """Whether somebody's `distributed.Client` is connected."""
        return any(name != "fire-and-forget" for name in self.clients)


class TellRevoked(SchedulerPlugin):  # type: ignore[misc]
    """Tells a worker that joins which certificates were revoked before."""

    async def add_worker(self, scheduler: LendingScheduler, worker: str) -> None:
        """Send it the list."""
        await scheduler.notify(worker, [f"{serial:x}" for serial in scheduler.revoked])


class LentDaskWorker(Revocable, LeanWorker):
    """A worker of a lent cluster; knows whether it was closed to be started again."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.handlers["revoke"] = self.revoke_all
        #: Whether `Client.restart` closed it: without a Nanny, Dask leaves the new start to others.
        self.restarting = False

    def revoke_all(self, serials: list[str]) -> None:
        """Revoke certificates by order of the scheduler."""
        for serial in serials:
            self.revoke(serial)

    async def close(self, *arguments: Any, **options: Any) -> Any:
        if self.status == Status.running:
            self.restarting = options.get("reason") == "scheduler-remove-worker"
        return await super().close(*arguments, **options)
