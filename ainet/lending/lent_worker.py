"""The lender's side of a loan: a worker in a child process, for the scheduler of another member."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.engine.child import ChildProcess
from ainet.errors import AinetError, PeerUnreachable
from ainet.lending.worker import RESTART
from ainet.signals import Signal

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from pathlib import Path

    from ainet.engine.certificates import DaskCredentials

#: A lent worker that falls over more often than this within a minute is not started again.
RESTARTS_A_MINUTE = 5


class LentWorker:
    """The lender's side: a worker in a child process, for the scheduler of another member.

    It ends with its scheduler, with this node, or by `stop`; one that falls over is started again.

    Parameters
    ----------
    data_dir
        The node's data directory.
    log
        The log, for starts and ends.
    scheduler
        Address of the asker's scheduler.
    credentials
        Issued by the asker.
    name
        The worker's name in that cluster; unique there.
    host, port
        The address for the scheduler and other lent workers; port 0: any.
    threads
        The number of tasks that it runs at once.
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
        port: int = 0,
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
            "port": port,
            "threads": threads,
            "memory": memory,
        }
        self._child: ChildProcess | None = None
        self._starts: list[float] = []
        self._restart: asyncio.Task[None] | None = None
        self._ended: Signal[[]] = Signal("a lent worker has ended", log)
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
        child = ChildProcess("ainet.lending.worker", self._data_dir, self._log)
        try:
            answer = await child.start(**self._parameters)
        except AinetError as exc:
            raise PeerUnreachable(
                f"The worker cannot be lent: the scheduler at {self._parameters['scheduler']} does not accept it. "
                f"Details are in {child.log_path}."
            ) from exc
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
        self._ended.connect(callback)

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
        self._ended.emit()
