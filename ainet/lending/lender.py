"""Dask for the owner's own code over the members' devices: who lends a worker to whom."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from ainet.api import clients
from ainet.api.clients import ClientTls, LentProcess, OpenedClient
from ainet.api.verb import Nothing
from ainet.engine.certificates import DaskCredentials
from ainet.errors import AinetError, NotEnough, NotFound, Refused
from ainet.hosting.absence import AbsenceWatch
from ainet.identity.roster import NodeId
from ainet.lending.client_cluster import ClientCluster
from ainet.lending.lent_worker import LentWorker
from ainet.links.request import Request
from ainet.links.standing import Standing
from ainet.timing import TIMING, Timing
from ainet.wire.interfaces import own_loopback

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path

    from ainet.api.answers import Answers
    from ainet.config import AinetConfig
    from ainet.identity.identity import Identity
    from ainet.links.link import PeerLink
    from ainet.links.links import Links
    from ainet.resources.allocator import Allocator, Reservation

#: A lent worker gets half of what is free, but not more than this (bytes).
MOST_MEMORY = 2_000_000_000
#: Less than this is not worth a worker (bytes).
LEAST_MEMORY = 100_000_000
#: Ports for lent workers, on a loopback address that nothing else uses.
FIRST_PORT, PORTS = 20_000, 12_000
#: Workers of one cluster that a lender makes room for.
MOST_PLACES = 1024
#: Workers that one member may borrow at once, each for a cluster of its own.
MOST_LOANS = 2


class Lent(msgspec.Struct, frozen=True):
    """The worker runs."""

    pid: int


class Place(msgspec.Struct, frozen=True):
    """A port of a node's own loopback address (`own_loopback`), where a part of a Dask cluster listens."""

    node: NodeId
    port: Annotated[int, msgspec.Meta(ge=1024, le=65535)]

    @property
    def address(self) -> str:
        """The address that Dask knows it by, on every device."""
        return f"tls://{own_loopback(self.node)}:{self.port}"


class LendWorker(Request, frozen=True):
    """Ask for a worker.

    Attributes
    ----------
    cluster
        Its name.
    scheduler, others
        The addresses of the asker's scheduler and of the other workers.
    port
        The port of the new worker.
    credentials
        Credentials that the scheduler accepts.
    """

    reply = Lent

    cluster: str
    scheduler: Place
    others: Annotated[list[Place], msgspec.Meta(max_length=1024)]
    port: Annotated[int, msgspec.Meta(ge=1024, le=65535)]
    credentials: DaskCredentials


class MeetWorker(Request, frozen=True):
    """Tell a lender where a further worker of a cluster is about to listen."""

    cluster: str
    worker: Place


class ReturnWorker(Request, frozen=True):
    """Tell a lender that its worker is not needed any more."""

    cluster: str


class Borrowing:
    """A cluster of this node's owner, and the nodes that were asked for a worker of it."""

    def __init__(self, cluster: ClientCluster) -> None:
        self.cluster = cluster
        self.lenders: set[str] = set()
        #: The places of its workers.
        self.places: list[Place] = []


class Loan:
    """A worker that this node lends, while it starts and from then on."""

    def __init__(self, borrower: str, worker: LentWorker, reservation: Reservation, request: LendWorker) -> None:
        self.borrower = borrower
        self.worker = worker
        self.reservation = reservation
        self.port = request.port
        #: The places of the scheduler and of the other workers.
        self.places = [request.scheduler, *request.others]
        self.starting: asyncio.Future[None] = asyncio.get_running_loop().create_future()

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
        The reservations for lent workers.
    make_room
        Gives up memory that is only kept because it may be wanted again.
    answers
        The registry of answers to the owner's verbs.
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
        make_room: Callable[[], Awaitable[None]],
        answers: Answers,
        data_dir: Path,
        log: logging.Logger,
        timing: Timing = TIMING,
    ) -> None:
        self._timing = timing
        self._config = config
        self._identity = identity
        self._links = links
        self._allocator = allocator
        self._make_room = make_room
        self._data_dir = data_dir
        self._log = log
        self._borrowings: dict[str, Borrowing] = {}
        self._loans: dict[str, Loan] = {}
        #: Tasks that end something. Nobody else does it a second time, and `stop` waits for it.
        self._ending: set[asyncio.Task[None]] = set()
        self._borrowers = AbsenceWatch(links, timing.resume, self._end_of)
        links.handle(LendWorker, self.lend)
        links.handle(ReturnWorker, self.take_back)
        links.handle(MeetWorker, self.meet)
        answers.add(clients.open_client, self.open)
        answers.add(clients.close_client, self.close)

    async def open(self, workers: int | None = None) -> OpenedClient:
        """Start a scheduler here and borrow a worker from each device that lends one, this one included.

        Parameters
        ----------
        workers
            The number that is wanted, other devices first; None for all.

        Raises
        ------
        NotEnough
            If fewer than `workers` are lent, or none; with each device's reason.
        NotFound
            If the cluster is ended meanwhile.
        """
        name = secrets.token_hex(8)
        host = own_loopback(self._identity.id)
        borrowing = self._borrowings[name] = Borrowing(ClientCluster(self._data_dir, self._log, host=host))
        found: list[LentProcess] = []
        reasons: list[str] = []
        try:
            borrowing.cluster.on_end(lambda: self._ended(name))
            await borrowing.cluster.start()
            self._links.channels.expose(host, borrowing.cluster.port)
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
                found.append(LentProcess(who, pid))
            self._check_open(name)
            if len(found) < (workers or 1):
                raise NotEnough(f"{len(found)} of {workers or 1} workers can be had. {' '.join(reasons)}".strip())
        except BaseException:
            await self._close(name)
            raise
        credentials = borrowing.cluster.credentials
        tls = ClientTls(credentials.ca, credentials.cert, credentials.key)
        return OpenedClient(name, borrowing.cluster.address, tls, found)

    async def close(self, id: str) -> Nothing:  # noqa: A002 - the name of the field
        """End a cluster and give its workers back.

        Raises
        ------
        NotFound
            If there is none of that name.
        """
        self._check_open(id)
        await self._close(id)
        return Nothing()

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
            raise Refused(f"{self._identity.name} lends no workers (its owner said so with `ainet up --no-lend`).")
        await self._borrowers.watch(link)
        if self._allocator.free.memory < LEAST_MEMORY:
            await self._make_room()
        if sum(loan.borrower == link.peer_id for loan in self._loans.values()) >= MOST_LOANS:
            raise Refused(
                f"{self._identity.name} lends {MOST_LOANS} workers to {link.peer_name} already, and no more to one "
                "device. Close another Dask cluster there first."
            )
        return Lent(await self._start(link.peer_id, request))

    async def meet(self, link: PeerLink, request: MeetWorker) -> None:
        """Make the address of a further worker valid on this device."""
        loan = self._loans.get(request.cluster)
        if loan is not None and loan.borrower == link.peer_id and len(loan.places) < MOST_PLACES:
            loan.places.append(request.worker)
            await self._links.forwarders.mirror(request.worker.node, request.worker.port)

    async def take_back(self, link: PeerLink, request: ReturnWorker) -> None:
        """End a worker that the asking member has borrowed."""
        loan = self._loans.get(request.cluster)
        if loan is not None and loan.borrower == link.peer_id:
            await self._end(request.cluster)

    def _check_open(self, name: str) -> None:
        if name not in self._borrowings:
            raise NotFound("This Dask cluster has ended already.")

    async def _borrow(self, name: str, borrowing: Borrowing, node: str) -> int:
        worker = Place(node, FIRST_PORT + secrets.randbelow(PORTS))
        request = LendWorker(
            cluster=name,
            scheduler=Place(self._identity.id, borrowing.cluster.port),
            others=list(borrowing.places),
            port=worker.port,
            credentials=borrowing.cluster.issue(node),
        )
        borrowing.places.append(worker)
        borrowing.lenders.add(node)  # it can connect from now on, and must be cut when it is removed meanwhile
        # The scheduler and the other workers must find the new one as soon as it is there.
        await self._links.forwarders.mirror(node, worker.port)
        await asyncio.gather(
            *(self._introduce(name, place.node, worker) for place in request.others if place.node != node)
        )
        if node == self._identity.id:
            return await self._start(node, request)
        link = await self._links.connect(node)
        lent: Lent = await link.request(request, timeout=self._timing.lend)
        return lent.pid

    async def _introduce(self, name: str, lender: str, worker: Place) -> None:
        if lender == self._identity.id:
            return
        try:
            link = await self._links.connect(lender)
            await link.request(MeetWorker(name, worker), timeout=self._timing.take_back)
        except AinetError as exc:  # their tasks can still exchange data through other workers
            self._log.info("A lender was not told of a further worker: %s", exc.message)

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
        self._links.channels.conceal(borrowing.cluster.port)
        await borrowing.cluster.stop()
        for place in borrowing.places:
            await self._links.forwarders.close(place.node, place.port)
        await asyncio.gather(*(self._return(name, node) for node in borrowing.lenders))

    async def _return(self, name: str, node: str) -> None:
        if node == self._identity.id:
            await self._end(name)
        elif (link := self._links.open_link(node, Standing.MEMBER)) is not None:
            with contextlib.suppress(AinetError):  # its worker ends with the scheduler anyway
                await link.request(ReturnWorker(name), timeout=self._timing.take_back)

    async def _start(self, borrower: str, request: LendWorker) -> int:
        if request.cluster in self._loans:
            raise Refused(f"{self._identity.name} lends a worker to this cluster already.")
        memory = min(self._allocator.free.memory // 2, MOST_MEMORY)
        reservation = self._allocator.reserve("a lent Dask worker", max(memory, LEAST_MEMORY))
        host = own_loopback(self._identity.id)
        worker = LentWorker(
            self._data_dir,
            self._log,
            scheduler=request.scheduler.address,
            credentials=request.credentials,
            name=self._identity.name,
            host=host,
            port=request.port,
            memory=reservation.memory,
        )
        loan = self._loans[request.cluster] = Loan(borrower, worker, reservation, request)
        loan.starting = asyncio.create_task(self._start_loan(loan))
        worker.on_end(lambda: self._worker_ended(request.cluster, loan))
        try:
            await asyncio.wait([loan.starting])
            if self._loans.get(request.cluster) is not loan:
                raise Refused(f"{self._identity.name} took the worker back while it started.")
            loan.starting.result()
        except BaseException:
            await self._end(request.cluster, loan)
            raise
        self._log.info("A Dask worker is lent to %s.", borrower[:8])
        return worker.pid or 0

    async def _start_loan(self, loan: Loan) -> None:
        for place in list(loan.places):
            await self._links.forwarders.mirror(place.node, place.port)
        self._links.channels.expose(own_loopback(self._identity.id), loan.port)
        await loan.worker.start()

    async def _finish(self, loan: Loan) -> None:
        await loan.end()
        self._links.channels.conceal(loan.port)
        # Those of a loan to this node itself are the cluster's own, which goes on without this worker.
        for place in loan.places if loan.borrower != self._identity.id else ():
            await self._links.forwarders.close(place.node, place.port)

    async def _end(self, cluster: str, only: Loan | None = None) -> None:
        loan = self._loans.get(cluster)
        if loan is not None and only in (None, loan):
            del self._loans[cluster]
            await self._to_end(self._finish(loan))

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
