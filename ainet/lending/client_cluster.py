"""The asker's side of a loan: a scheduler in a child process, for the owner's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ainet.engine.certificates import ClusterCA, DaskCredentials
from ainet.engine.child import ChildProcess
from ainet.engine.engine import Worker
from ainet.timing import TIMING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from pathlib import Path


class ClientCluster:
    """The asker's side: a scheduler in a child process, and the certificates of those who may connect to it.

    Parameters
    ----------
    data_dir
        The node's data directory.
    log
        The log, for the end of the scheduler.
    host
        Address of this device that the lenders reach.
    idle_seconds
        Without a client for this long, the scheduler ends.
    """

    def __init__(
        self, data_dir: Path, log: logging.Logger, *, host: str = "127.0.0.1", idle_seconds: float = TIMING.client_idle
    ) -> None:
        self._log = log
        self._host = host
        self._idle_seconds = idle_seconds
        self._ca = ClusterCA()
        self._serials: dict[str, list[int]] = {}
        self._child = ChildProcess("ainet.lending.scheduler", data_dir, log)
        #: The scheduler's address (``tls://host:port``), once started.
        self.address = ""
        #: The credentials of the asker's own `distributed.Client`.
        self.credentials, _ = self._ca.issue("client")

    @property
    def port(self) -> int:
        """The scheduler's port; 0 before it is started."""
        return int(self.address.rpartition(":")[2] or 0)

    @property
    def scheduler_pid(self) -> int | None:
        """Process id of the scheduler, while it runs."""
        return self._child.pid

    async def __aenter__(self) -> ClientCluster:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the scheduler.

        Raises
        ------
        AinetError
            It did not start; the message names the log.
        """
        credentials, _ = self._ca.issue("scheduler")
        answer = await self._child.start(
            **msgspec.to_builtins(credentials), host=self._host, idle_seconds=self._idle_seconds
        )
        self.address = answer["address"]

    async def stop(self) -> None:
        """End the scheduler, and with it every worker that was lent to it."""
        await self._child.stop()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, in the event loop, when the scheduler ended without `stop`."""
        self._child.on_end = callback

    def issue(self, lender: str) -> DaskCredentials:
        """Return credentials with which a worker of `lender` (a node id) may connect."""
        credentials, serial = self._ca.issue(lender)
        self._serials.setdefault(lender, []).append(serial)
        return credentials

    async def revoke(self, lender: str) -> None:
        """Cut the connections of `lender`'s worker and refuse its certificates from now on."""
        serials = [f"{serial:x}" for serial in self._serials.pop(lender, [])]
        await self._child.request("revoke", TIMING.client_asked, serials=serials)

    async def workers(self) -> list[Worker]:
        """Return the workers that are connected; pids are those of their own devices."""
        return [Worker(**one) for one in await self._child.request("workers", TIMING.client_asked)]
