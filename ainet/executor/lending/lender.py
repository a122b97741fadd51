"""Dask for the owner's own code over the members' devices: who lends a worker to whom."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.errors import AinetError, NotEnough, NotFound, Refused
from ainet.executor.engine.certificates import DaskCredentials
from ainet.executor.lending.client_cluster import ClientCluster
from ainet.executor.lending.lent_worker import LentWorker
from ainet.network import Request

if TYPE_CHECKING:
    import logging
    from collections.abc import Coroutine
    from pathlib import Path

    from ainet.config import AinetConfig
    from ainet.identity import Identity
    from ainet.network import Links, PeerLink
    from ainet.resources.allocator import Allocator, Reservation

#: A lent worker gets half of what is free, but not more than this (bytes).
MOST_MEMORY = 2_000_000_000
#: Less than this is not worth a worker (bytes).
LEAST_MEMORY = 100_000_000
#: Seconds in which a member must have started the worker that it lends.
LEND_SECONDS = 60.0
#: A worker whose borrower's link broke is taken back after this time (s).
GRACE_SECONDS = 10.0


class Lent(msgspec.Struct, frozen=True):
    """The worker runs."""

    pid: int


class LendWorker(Request, frozen=True):
    """Ask for a worker for the scheduler at this address, which accepts these credentials."""

    reply = Lent

    cluster: str
    scheduler: str
    credentials: DaskCredentials


class ReturnWorker(Request, frozen=True):
    """Tell a lender that its worker is not needed any more."""

    cluster: str


class Loan:
    """A worker that this node lends."""

    def __init__(self, borrower: str, worker: LentWorker, reservation: Reservation) -> None:
        self.borrower = borrower
        self.worker = worker
        self.reservation = reservation


class Lender:
    """Borrows workers for the owner's clusters, and lends this device's where the owner allows it.

    Parameters
    ----------
    config
        `lend` says whether members may borrow.
    identity, links
        This node and its members.
    allocator
        What a lent worker may take.
    data_dir
        For the files of the processes.
    log
        For loans that come and go.
    """

    def __init__(
        self,
        *,
        config: AinetConfig,
        identity: Identity,
        links: Links,
        allocator: Allocator,
        data_dir: Path,
        log: logging.Logger,
    ) -> None:
        self._config = config
        self._identity = identity
        self._links = links
        self._allocator = allocator
        self._data_dir = data_dir
        self._log = log
        self._clusters: dict[str, ClientCluster] = {}
        self._borrowed: dict[str, list[str]] = {}
        self._loans: dict[str, Loan] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        links.handle(LendWorker, self.lend)
        links.handle(ReturnWorker, self.take_back)

    async def open(self, workers: int | None = None) -> dict[str, Any]:
        """Start a scheduler here and borrow a worker from each device that lends one, this one included.

        Parameters
        ----------
        workers
            How many are wanted, other devices first; None for all.

        Returns
        -------
        dict
            ``id``, ``address``, ``tls`` (``ca``, ``cert``, ``key`` as PEM texts) and ``workers`` (``node``, ``pid``).

        Raises
        ------
        NotEnough
            If fewer than `workers` are lent, or none; with each device's reason.
        """
        cluster = ClientCluster(self._data_dir, self._log, host=self._host)
        await cluster.start()
        name = secrets.token_hex(8)
        self._clusters[name] = cluster
        self._borrowed[name] = []
        cluster.on_end(lambda: self._spawn(self.close(name)))
        found: list[dict[str, Any]] = []
        reasons: list[str] = []
        try:
            members = [state for state in self._links.members() if not state.is_self]
            for node, who in [*((state.id, state.name) for state in members), (self._identity.id, self._identity.name)]:
                if workers is not None and len(found) >= workers:
                    break
                try:
                    pid = await self._borrow(name, cluster, node)
                except (AinetError, TimeoutError) as exc:
                    reasons.append(f"{who}: {exc}")
                    continue
                found.append({"node": who, "pid": pid})
            if len(found) < (workers or 1):
                msg = f"{len(found)} of {workers or 1} workers can be had. {' '.join(reasons)}".strip()
                raise NotEnough(msg)
        except BaseException:
            await self.close(name)
            raise
        tls = msgspec.to_builtins(cluster.credentials)
        return {"id": name, "address": cluster.address, "tls": tls, "workers": found}

    async def close(self, name: str) -> None:
        """End a cluster and give its workers back.

        Raises
        ------
        NotFound
            If there is none of that name.
        """
        cluster = self._clusters.pop(name, None)
        if cluster is None:
            msg = "This Dask cluster has ended already."
            raise NotFound(msg)
        await cluster.stop()
        for node in self._borrowed.pop(name):
            if node == self._identity.id:
                await self._end(name)
            elif (link := self._links.linked(node)) is not None:
                with contextlib.suppress(AinetError):  # its worker ends with the scheduler anyway
                    await link.request(ReturnWorker(name), timeout=GRACE_SECONDS)

    async def stop(self) -> None:
        """End every cluster and take every worker back."""
        for name in list(self._clusters):
            await self.close(name)
        for name in list(self._loans):
            await self._end(name)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def revoke(self, node_id: str) -> None:
        """Cut a removed member off: its workers leave the clusters here, and workers lent to it come back."""
        for name, cluster in self._clusters.items():
            if node_id in self._borrowed[name]:
                self._borrowed[name].remove(node_id)
                await cluster.revoke(node_id)
        for name in [name for name, loan in self._loans.items() if loan.borrower == node_id]:
            await self._end(name)

    async def lend(self, link: PeerLink, request: LendWorker) -> Lent:
        """Lend a worker to a member."""
        if not self._config.lend:
            msg = f"{self._identity.name} lends no workers (its owner said so with `ainet up --no-lend`)."
            raise Refused(msg)
        link.on_close(lambda gone: self._spawn(self._expire(gone.peer_id)))
        return Lent(await self._start(link.peer_id, request))

    async def take_back(self, link: PeerLink, request: ReturnWorker) -> None:
        """End a worker that the asking member has borrowed."""
        loan = self._loans.get(request.cluster)
        if loan is not None and loan.borrower == link.peer_id:
            await self._end(request.cluster)

    @property
    def _host(self) -> str:
        return self._links.address.rpartition(":")[0].strip("[]")

    async def _borrow(self, name: str, cluster: ClientCluster, node: str) -> int:
        request = LendWorker(name, cluster.address, cluster.issue(node))
        if node == self._identity.id:
            pid = await self._start(node, request)
        else:
            link = await self._links.connect(node)
            pid = (await link.request(request, timeout=LEND_SECONDS)).pid
        self._borrowed[name].append(node)
        return pid

    async def _start(self, borrower: str, request: LendWorker) -> int:
        if request.cluster in self._loans:
            msg = f"{self._identity.name} lends a worker to this cluster already."
            raise Refused(msg)
        memory = min(self._allocator.free.memory // 2, MOST_MEMORY)
        reservation = self._allocator.reserve("a lent Dask worker", max(memory, LEAST_MEMORY))
        worker = LentWorker(
            self._data_dir,
            self._log,
            scheduler=request.scheduler,
            credentials=request.credentials,
            name=self._identity.name,
            host=self._host,
            memory=reservation.memory,
        )
        self._loans[request.cluster] = Loan(borrower, worker, reservation)
        worker.on_end(lambda: self._spawn(self._end(request.cluster)))
        try:
            await worker.start()
        except BaseException:
            await self._end(request.cluster)
            raise
        self._log.info("A Dask worker is lent to %s.", borrower[:8])
        return worker.pid or 0

    async def _end(self, cluster: str) -> None:
        loan = self._loans.pop(cluster, None)
        if loan is not None:
            await loan.worker.stop()
            loan.reservation.release()

    async def _expire(self, borrower: str) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        if self._links.linked(borrower) is None:
            for name in [name for name, loan in self._loans.items() if loan.borrower == borrower]:
                await self._end(name)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            with contextlib.suppress(NotFound):
                await work

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
