"""Dask across devices, for the user's own code: a scheduler on the asker's device, workers on those of lenders.

Both ends only start and end processes here; who may borrow from whom is decided, and said to the other device, by
the node.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.errors import AinetError, PeerUnreachable
from ainet.executor.engine import Worker
from ainet.executor.engine_certificates import ClusterCA, DaskCredentials
from ainet.executor.engine_child import ChildProcess
from ainet.executor.lending_worker import RESTART

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from pathlib import Path

#: A cluster to which nobody's client was connected for this time (s) ends.
IDLE_SECONDS = 60.0
REQUEST_SECONDS = 10.0
#: A lent worker that falls over more often than this within a minute is not started again.
RESTARTS_A_MINUTE = 5


class ClientCluster:
    """The asker's side: a scheduler in a child process, and the certificates of those who may connect to it.

    Parameters
    ----------
    data_dir
        The node's data directory.
    log
        Where the end of the scheduler is noted.
    host
        Address of this device that the lenders reach.
    idle_seconds
        Without a client for so long, the scheduler ends.
    """

    def __init__(
        self, data_dir: Path, log: logging.Logger, *, host: str = "127.0.0.1", idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._log = log
        self._host = host
        self._idle_seconds = idle_seconds
        self._ca = ClusterCA()
        self._serials: dict[str, list[int]] = {}
        self._child = ChildProcess("ainet.executor.lending_scheduler", data_dir, log)
        #: The scheduler's address (``tls://host:port``), once started.
        self.address = ""
        #: What the asker's own `distributed.Client` connects with.
        self.credentials, _ = self._ca.issue("client")

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
        await self._child.request("revoke", REQUEST_SECONDS, serials=serials)

    async def workers(self) -> list[Worker]:
        """Return the workers that are connected; pids are those of their own devices."""
        return [Worker(**one) for one in await self._child.request("workers", REQUEST_SECONDS)]


class LentWorker:
    """The lender's side: a worker in a child process, for the scheduler of another member.

    It ends with its scheduler, with this node, or by `stop`; one that falls over is started again.

    Parameters
    ----------
    data_dir
        The node's data directory.
    log
        Where starts and ends are noted.
    scheduler
        Address of the asker's scheduler.
    credentials
        Issued by the asker.
    name
        The worker's name in that cluster; unique there.
    host
        Address of this device that the scheduler and other lent workers reach.
    threads
        How many tasks it runs at once.
    memory
        Bytes at which it spills to disk and then pauses; 0: no limit.
    """

    def __init__(
        self,
        data_dir: Path,
        log: logging.Logger,
        *,
        scheduler: str,
        credentials: DaskCredentials,
        name: str,
        host: str = "127.0.0.1",
        threads: int = 1,
        memory: int = 0,
    ) -> None:
        self._data_dir = data_dir
        self._log = log
        self._parameters: dict[str, Any] = {
            **msgspec.to_builtins(credentials),
            "scheduler": scheduler,
            "name": name,
            "host": host,
            "threads": threads,
            "memory": memory,
        }
        self._child: ChildProcess | None = None
        self._starts: list[float] = []
        self._restart: asyncio.Task[None] | None = None
        self._callbacks: list[Callable[[], None]] = []
        #: The worker's address (``tls://host:port``), once started.
        self.address = ""

    @property
    def pid(self) -> int | None:
        """Process id of the worker, while it runs."""
        return self._child.pid if self._child is not None else None

    async def __aenter__(self) -> LentWorker:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the worker and connect it.

        Raises
        ------
        PeerUnreachable
            The scheduler does not answer, or refuses the credentials.
        """
        self._starts.append(time.monotonic())
        child = ChildProcess("ainet.executor.lending_worker", self._data_dir, self._log)
        try:
            answer = await child.start(**self._parameters)
        except AinetError as exc:
            msg = (
                f"The worker cannot be lent: the scheduler at {self._parameters['scheduler']} does not accept it. "
                f"Details are in {child.log_path}."
            )
            raise PeerUnreachable(msg) from exc
        self._child = child
        child.on_end = self._note_end
        self.address = answer["address"]

    async def stop(self) -> None:
        """Take the worker back."""
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.wait([self._restart])
        if self._child is not None:
            await self._child.stop()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, in the event loop, when the worker ended without `stop` and stays so."""
        self._callbacks.append(callback)

    def _note_end(self) -> None:
        code = self._child.exit_code if self._child is not None else 0
        minute_ago = time.monotonic() - 60
        self._starts = [start for start in self._starts if start > minute_ago]
        if code == 0 or (code != RESTART and len(self._starts) > RESTARTS_A_MINUTE):
            self._end()
        else:
            self._restart = asyncio.create_task(self._start_again())

    async def _start_again(self) -> None:
        try:
            await self.start()
        except PeerUnreachable as exc:
            self._log.info("%s", exc)
            self._end()

    def _end(self) -> None:
        for callback in self._callbacks:
            callback()
