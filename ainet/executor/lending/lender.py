"""Dask for the owner's own code over the members' devices: who lends a worker to whom."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.errors import AinetError, NotEnough, NotFound, Refused
from ainet.executor.absence import GRACE_SECONDS, AbsenceWatch
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
#: Seconds in which a member must have taken back the worker that it lent; it ends with its scheduler anyway.
RETURN_SECONDS = 10.0
#: Workers that one member may borrow at once, each for a cluster of its own.
MOST_LOANS = 2


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


class Borrowing:
    """A cluster of this node's owner, and the nodes that were asked for a worker of it."""

    def __init__(self, cluster: ClientCluster) -> None:
        self.cluster = cluster
        self.lenders: set[str] = set()


class Loan:
    """A worker that this node lends, while it starts and from then on."""

    def __init__(self, borrower: str, worker: LentWorker, reservation: Reservation) -> None:
        self.borrower = borrower
        self.worker = worker
        self.reservation = reservation
        self.starting = asyncio.create_task(worker.start())

    async def end(self) -> None:
        """End the worker, and give back what was reserved for it."""
        self.starting.cancel()
        await asyncio.gather(self.starting, return_exceptions=True)
        try:
            await self.worker.stop()
        finally:
            self.reservation.release()


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
        self._borrowings: dict[str, Borrowing] = {}
        self._loans: dict[str, Loan] = {}
        #: What is being ended. Nobody else does it a second time, and `stop` waits for it.
        self._ending: set[asyncio.Task[None]] = set()
        self._borrowers = AbsenceWatch(links, GRACE_SECONDS, self._end_of)
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
        NotFound
            If the cluster is ended meanwhile.
        """
        name = secrets.token_hex(8)
        borrowing = self._borrowings[name] = Borrowing(ClientCluster(self._data_dir, self._log, host=self._host))
        found: list[dict[str, Any]] = []
        reasons: list[str] = []
        try:
            borrowing.cluster.on_end(lambda: self._ended(name))
            await borrowing.cluster.start()
            members = [state for state in self._links.members() if not state.is_self]
            for node, who in [*((state.id, state.name) for state in members), (self._identity.id, self._identity.name)]:
                if workers is not None and len(found) >= workers:
                    break
                self._check_open(name)
                try:
                    pid = await self._borrow(name, borrowing, node)
                except (AinetError, TimeoutError) as exc:
                    reasons.append(f"{who}: {exc}")
                    continue
                found.append({"node": who, "pid": pid})
            self._check_open(name)
            if len(found) < (workers or 1):
                msg = f"{len(found)} of {workers or 1} workers can be had. {' '.join(reasons)}".strip()
                raise NotEnough(msg)
        except BaseException:
            await self._close(name)
            raise
        tls = msgspec.to_builtins(borrowing.cluster.credentials)
        return {"id": name, "address": borrowing.cluster.address, "tls": tls, "workers": found}

    async def close(self, name: str) -> None:
        """End a cluster and give its workers back.

        Raises
        ------
        NotFound
            If there is none of that name.
        """
        self._check_open(name)
        await self._close(name)

    async def stop(self) -> None:
        """End every cluster and take every worker back."""
        await self._borrowers.stop()
        await asyncio.gather(*(self._close(name) for name in list(self._borrowings)))
        await asyncio.gather(*(self._end(name) for name in list(self._loans)))
        while self._ending:
            await asyncio.wait(self._ending)

    async def revoke(self, node_id: str) -> None:
        """Cut a removed member off: its workers leave the clusters here, and workers lent to it come back."""
        cut = [self._cut(one, node_id) for one in self._borrowings.values() if node_id in one.lenders]
        await asyncio.gather(self._end_of(node_id), *cut)

    async def lend(self, link: PeerLink, request: LendWorker) -> Lent:
        """Lend a worker to a member."""
        if not self._config.lend:
            msg = f"{self._identity.name} lends no workers (its owner said so with `ainet up --no-lend`)."
            raise Refused(msg)
        if sum(loan.borrower == link.peer_id for loan in self._loans.values()) >= MOST_LOANS:
            msg = (
                f"{self._identity.name} lends {MOST_LOANS} workers to {link.peer_name} already, and no more to one "
                "device. Close another Dask cluster there first."
            )
            raise Refused(msg)
        self._borrowers.watch(link.peer_id)
        return Lent(await self._start(link.peer_id, request))

    async def take_back(self, link: PeerLink, request: ReturnWorker) -> None:
        """End a worker that the asking member has borrowed."""
        loan = self._loans.get(request.cluster)
        if loan is not None and loan.borrower == link.peer_id:
            await self._end(request.cluster)

    @property
    def _host(self) -> str:
        return self._links.address.rpartition(":")[0].strip("[]")

    def _check_open(self, name: str) -> None:
        if name not in self._borrowings:
            msg = "This Dask cluster has ended already."
            raise NotFound(msg)

    async def _borrow(self, name: str, borrowing: Borrowing, node: str) -> int:
        request = LendWorker(name, borrowing.cluster.address, borrowing.cluster.issue(node))
        borrowing.lenders.add(node)  # it can connect from now on, and must be cut when it is removed meanwhile
        if node == self._identity.id:
            return await self._start(node, request)
        link = await self._links.connect(node)
        lent: Lent = await link.request(request, timeout=LEND_SECONDS)
        return lent.pid

    async def _cut(self, borrowing: Borrowing, node: str) -> None:
        borrowing.lenders.discard(node)
        try:
            await borrowing.cluster.revoke(node)
        except AinetError as exc:  # it has ended, or ends; other clusters are cut nevertheless
            self._log.warning("A Dask cluster could not be told that %s was removed: %s", node[:8], exc)

    async def _close(self, name: str) -> None:
        borrowing = self._borrowings.pop(name, None)
        if borrowing is not None:
            await self._to_end(self._give_back(name, borrowing))

    async def _give_back(self, name: str, borrowing: Borrowing) -> None:
        await borrowing.cluster.stop()
        await asyncio.gather(*(self._return(name, node) for node in borrowing.lenders))

    async def _return(self, name: str, node: str) -> None:
        if node == self._identity.id:
            await self._end(name)
        elif (link := self._links.linked(node)) is not None:
            with contextlib.suppress(AinetError):  # its worker ends with the scheduler anyway
                await link.request(ReturnWorker(name), timeout=RETURN_SECONDS)

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
        loan = self._loans[request.cluster] = Loan(borrower, worker, reservation)
        worker.on_end(lambda: self._worker_ended(request.cluster, loan))
        try:
            await asyncio.wait([loan.starting])
            if self._loans.get(request.cluster) is not loan:
                msg = f"{self._identity.name} took the worker back while it started."
                raise Refused(msg)
            loan.starting.result()
        except BaseException:
            await self._end(request.cluster, loan)
            raise
        self._log.info("A Dask worker is lent to %s.", borrower[:8])
        return worker.pid or 0

    async def _end(self, cluster: str, only: Loan | None = None) -> None:
        loan = self._loans.get(cluster)
        if loan is not None and only in (None, loan):
            del self._loans[cluster]
            await self._to_end(loan.end())

    async def _end_of(self, borrower: str) -> None:
        names = [name for name, loan in self._loans.items() if loan.borrower == borrower]
        await asyncio.gather(*(self._end(name) for name in names))

    def _ended(self, name: str) -> None:
        self._spawn(self._close(name))

    def _worker_ended(self, cluster: str, loan: Loan) -> None:
        self._spawn(self._end(cluster, loan))

    async def _to_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what must not be left half done: whoever waits for it may be cancelled, but not the work."""
        await asyncio.shield(self._spawn(work))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task
