"""The engine of a node: the Dask cluster whose workers hold the stages.

By default it is a cluster of the node's own, in child processes; or an existing one that the owner names.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.engine.certificates import ClusterCA
from ainet.engine.child import ChildProcess, remove_leftovers
from ainet.errors import AinetError, NotEnough, PeerUnreachable, UsageError
from ainet.signals import Signal
from ainet.tasks import Tasks
from ainet.timing import TIMING
from ainet.wire.address import is_loopback, split_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client, Security

    from ainet.config import AinetConfig

#: The connection to the scheduler is checked this often (s).
WATCH_SECONDS = 0.2
OWN_WATCH_SECONDS = 2.0
#: Nobody reads what the scheduler says of its workers in general.
QUIET = {"distributed.client.scheduler-info-interval": "60s", "distributed.client.heartbeat": "30s"}
TLS_FILES = ("tls_ca_file", "tls_client_cert", "tls_client_key")


class Worker(msgspec.Struct, frozen=True):
    """A Dask worker: its address, its process id (on the machine where it runs) and its name."""

    address: str
    pid: int
    name: str


class Engine:
    """A Dask cluster that starts with the node, grows on demand and says when a worker is lost.

    Parameters
    ----------
    config
        Uses `dask_scheduler` and `dask_security`.
    data_dir
        The node's data directory.
    log
        Receives what Dask would print.
    """

    def __init__(self, config: AinetConfig, data_dir: Path, log: logging.Logger) -> None:
        self._config = config
        self._data_dir = data_dir
        self._log = log
        self._child: ChildProcess | None = None
        self._client: Client | None = None
        self._workers: dict[str, Worker] = {}
        #: Addresses of workers that were lost while the client was connected.
        self._gone: set[str] = set()
        self._worker_lost: Signal[[str]] = Signal("a worker is lost", log)
        self._lock = asyncio.Lock()
        self._tasks = Tasks("Looking after the Dask cluster failed", log)
        self._watcher: asyncio.Task[None] | None = None

    @property
    def own(self) -> bool:
        """Whether the cluster is the node's own: only then do pids belong to this machine."""
        return not self._config.dask_scheduler

    @property
    def client(self) -> Client:
        """The asynchronous client, bound to the node's event loop; never the process's default client."""
        if self._client is None:
            raise PeerUnreachable("The engine of this node is not running. The next question starts it again.")
        return self._client

    @property
    def scheduler_pid(self) -> int | None:
        """Process id of the own cluster's scheduler and Nannies, while it runs."""
        return self._child.pid if self._child is not None else None

    def workers(self) -> list[Worker]:
        """Return the workers that are connected."""
        return list(self._workers.values())

    def on_worker_lost(self, callback: Callable[[str], None]) -> None:
        """Have `callback` called, in the event loop, with the address of every worker that went away unasked."""
        self._worker_lost.connect(callback)

    async def __aenter__(self) -> Engine:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the own cluster with one worker, or connect to the existing one.

        Raises
        ------
        PeerUnreachable
            The existing scheduler does not answer.
        UsageError
            Its TLS files are missing or unusable.
        AinetError
            The own cluster did not start; the message names the log.
        """
        try:
            async with self._lock:
                await self._start()
        except BaseException:
            await self.stop()  # also when it is cancelled, nothing may be left that still ends
            raise

    async def stop(self) -> None:
        """End the own cluster, or disconnect from the existing one."""
        async with self._lock:
            self._workers.clear()
            self._let_go()
        await self._tasks.finish()

    async def ensure_workers(self, n: int) -> list[Worker]:
        """Return at least `n` workers: the own cluster grows, an existing one must have them.

        Raises
        ------
        NotEnough
            The existing cluster has fewer.
        PeerUnreachable, UsageError, AinetError
            As for `start`, when the cluster had ended.
        """
        async with self._lock:
            if self._client is None:
                await self._start()
            if self._child is not None:
                self._adopt(await self._child.request("grow", TIMING.worker_start, n=n))
            else:
                await self._look_for_workers()
        if len(self._workers) < n:
            raise NotEnough(
                f"The Dask cluster at {self._config.dask_scheduler} has {len(self._workers)} worker(s), and {n} are "
                "needed. Start more workers there, or use fewer stages.",
                workers=len(self._workers),
                needed=n,
            )
        return self.workers()

    async def retire(self, address: str) -> None:
        """End a worker of the own cluster that is not needed any more; one of an existing cluster stays."""
        async with self._lock:
            if self._child is not None:
                self._workers.pop(address, None)
                await self._child.request("retire", TIMING.worker_start, address=address)

    async def actor(self, kind: type, *arguments: Any, address: str) -> Any:
        """Create an actor on the worker at `address` and return its proxy.

        A proxy finds its client when it is made, through the process's default; this one is bound to the engine's.
        Whatever the constructor raises is raised here.
        """
        from distributed import Actor

        client = self.client
        future = client.submit(kind, *arguments, actor=True, workers=[address], allow_other_workers=False, pure=False)
        error = await future.exception()
        if error is not None:
            raise error
        with client.as_current():
            return Actor(kind, address, future.key)

    async def _start(self) -> None:
        try:
            await (self._start_own() if self.own else self._join_existing())
        except BaseException:
            self._let_go()
            raise

    async def _join_existing(self) -> None:
        await asyncio.to_thread(import_distributed, self._log)
        address = self._config.dask_scheduler
        try:
            await self._connect(address, self._existing_security(), TIMING.cluster_dial)
            await self._look_for_workers()
        except (OSError, TimeoutError, ValueError, RuntimeError, TypeError) as exc:
            raise PeerUnreachable(
                f"The Dask scheduler at {address} does not answer ({exc or type(exc).__name__}). Check that it runs, "
                "and that `dask_scheduler` and `dask_security` in the configuration name its address and TLS files."
            ) from exc

    async def _start_own(self) -> None:
        remove_leftovers(self._data_dir)
        credentials, _ = ClusterCA().issue("engine")
        child = ChildProcess("ainet.engine.process", self._data_dir, self._log)
        child.on_end = self._lose_cluster
        self._child = child
        # Both import Dask: at the same time.
        answer, _ = await asyncio.gather(
            child.start(**msgspec.to_builtins(credentials)), asyncio.to_thread(import_distributed, self._log)
        )
        await self._connect(answer["address"], credentials.security(), TIMING.worker_start)
        self._adopt(await child.request("grow", TIMING.worker_start, n=1))

    async def _connect(self, address: str, security: Security | None, seconds: float) -> None:
        import dask
        from distributed import Client

        self._gone.clear()
        with dask.config.set(QUIET):
            client = Client(
                address,
                security=security,
                asynchronous=True,
                set_as_default=False,
                timeout=seconds,
                direct_to_workers=self.own,  # workers of an existing cluster may be out of reach
            )
        try:
            await client
        except BaseException:
            await client.close(timeout=TIMING.cluster_close)
            raise
        self._client = client
        client.subscribe_topic("all", self._note_event)
        self._watcher = asyncio.create_task(self._watch(client))

    def _existing_security(self) -> Security | None:
        import ssl

        from distributed import Security

        files = {str(name): str(path) for name, path in self._config.dask_security.items()}
        if unknown := sorted(set(files) - set(TLS_FILES)):
            raise UsageError(f"`dask_security` has no entry {unknown[0]!r}; it takes {', '.join(TLS_FILES)}.")
        for name, path in files.items():
            if not Path(path).is_file():
                raise UsageError(f"The file {path}, named by `dask_security` as {name}, does not exist.")
        protocol, _, address = self._config.dask_scheduler.rpartition("://")
        if protocol != "tls":
            if not is_loopback(split_address(address, 0)[0]):
                # Stages speak to members with this device's key, which travels to their workers.
                raise UsageError(
                    f"The Dask scheduler at {self._config.dask_scheduler} is not encrypted. Beyond this device a "
                    "tls:// address is needed, with `dask_security` in the configuration."
                )
            return None
        if missing := [name for name in TLS_FILES[:2] if name not in files]:
            raise UsageError(f"A tls:// scheduler needs `dask_security` with {' and '.join(missing)}.")
        security = Security(require_encryption=True, **files)
        try:
            security.get_connection_args("client")
        except (OSError, ssl.SSLError) as exc:
            raise UsageError(f"The TLS files named by `dask_security` cannot be used: {exc}.") from exc
        return security

    async def _look_for_workers(self) -> None:
        """Bring the list of an existing cluster's workers up to date."""
        present = (await self.client.scheduler.identity(n_workers=-1))["workers"]
        new = [address for address in present if address not in self._workers]
        pids = await self.client.run(os.getpid, workers=new, on_error="ignore") if new else {}
        known = [{"address": one.address, "pid": one.pid, "name": one.name} for one in self.workers()]
        found = [
            {"address": address, "pid": pid, "name": str(present[address]["name"])} for address, pid in pids.items()
        ]
        self._adopt([one for one in known + found if one["address"] in present])

    def _adopt(self, found: list[dict[str, Any]]) -> None:
        # The news of a loss may have overtaken the list.
        self._workers = {one["address"]: Worker(**one) for one in found if one["address"] not in self._gone}

    def _note_event(self, event: tuple[float, Any]) -> None:
        message = event[1]
        action = message.get("action") if isinstance(message, dict) else None
        if action == "remove-worker":
            self._gone.add(message["worker"])
            self._lose_worker(message["worker"])
        elif action == "add-worker":
            # A Nanny brought a worker back, or somebody started another one in an existing cluster.
            self._gone.discard(message["worker"])
            self._tasks.spawn(self._welcome(message["worker"]))

    async def _welcome(self, address: str) -> None:
        async with self._lock:
            if address in self._workers or self._client is None:
                return
            try:
                if self._child is not None:
                    self._adopt(await self._child.request("workers", TIMING.worker_start))
                else:
                    await self._look_for_workers()
            except (OSError, AinetError) as exc:
                self._log.info("The new worker %s could not be asked: %s", address, exc)

    def _lose_worker(self, address: str) -> None:
        if self._workers.pop(address, None) is not None:
            self._log.info("The worker %s is lost.", address)
            self._worker_lost.emit(address)

    async def _watch(self, client: Client) -> None:
        while client.status == "running" and client.scheduler_comm and not client.scheduler_comm.closed():  # noqa: ASYNC110
            # The own cluster's process is watched, too.
            await asyncio.sleep(OWN_WATCH_SECONDS if self.own else WATCH_SECONDS)
        self._lose_cluster()

    def _lose_cluster(self) -> None:
        self._let_go()
        for address in list(self._workers):
            self._lose_worker(address)

    def _let_go(self) -> None:
        client, self._client = self._client, None
        child, self._child = self._child, None
        watcher, self._watcher = self._watcher, None
        if watcher is not None and watcher is not asyncio.current_task():
            watcher.cancel()
        self._tasks.spawn(_put_away(client, child))


async def _put_away(client: Client | None, child: ChildProcess | None) -> None:
    if client is not None:
        if client.status == "running":
            client.unsubscribe_topic("all")
        with contextlib.suppress(TimeoutError):
            await client.close(timeout=TIMING.cluster_close)
    if child is not None:
        await child.stop()


def import_distributed(log: logging.Logger) -> None:
    """Import Dask without letting it set up this process's logging; its messages go to `log`, level debug.

    A process in which Dask was imported before keeps what it has.
    """
    if "distributed" in sys.modules:
        return
    import dask

    # An incremental dictionary without entries changes nothing; the default would print to standard error and
    # lower the levels of the web server's own loggers.
    with dask.config.set(logging={"version": 1, "incremental": True}):
        import distributed  # noqa: F401
    logger = logging.getLogger("distributed")
    logger.propagate = False
    logger.addHandler(_Relay(log))


class _Relay(logging.Handler):
    def __init__(self, log: logging.Logger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.debug("%s: %s", record.name, record.getMessage())
