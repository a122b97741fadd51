"""Leases: what only one member should do at a time, agreed on without a leader.

Whoever wants a lease asks every member that it reaches, in the order of their ids, so that two who want the same one
meet at the first of them. A lease holds as long as its holder says so and is reached: no clock decides. Its number is
higher than any that somebody reached has seen. Two parts of a swarm may each have a holder; when they meet, the one
with the lower number has lost it, and what it still asks for in its name is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import msgspec

from ainet.errors import AinetError, LeaseLost
from ainet.identity.roster import Count, NodeId
from ainet.links.request import Request
from ainet.links.standing import Standing
from ainet.tasks import Tasks
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable

    from ainet.links.link import PeerLink
    from ainet.links.links import Links
    from ainet.swarm.feeds import Feeds

LOG = "leases"
#: A node remembers the numbers of this many leases that it has held.
MAX_REMEMBERED = 256

LeaseName = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
T = TypeVar("T")


class Lease(msgspec.Struct, frozen=True):
    """A node's word on a lease in its log ``leases``, under the lease's name.

    Attributes
    ----------
    number
        The fencing number.
    held
        Whether it is held still.
    """

    number: Count
    held: bool


class Granted(msgspec.Struct, frozen=True):
    """The node that may hold the lease (the asker: it was granted), and the highest number that was seen."""

    holder: NodeId
    number: Count


class TakeLease(Request, frozen=True):
    """Ask for a lease."""

    reply = Granted

    name: LeaseName


class ReturnLease(Request, frozen=True):
    """Take back `TakeLease`: the asker does not hold the lease after all."""

    name: LeaseName


class Fence(NamedTuple):
    """The order of holders of a lease: the number, then the node id."""

    number: int
    holder: str


class _Grant(NamedTuple):
    """A grant of a lease: the node, the highest number then, and the time until which it counts (monotonic)."""

    holder: str
    number: int
    until: float


class Leases:
    """The leases of this node, and its say in those of others.

    Parameters
    ----------
    links, feeds
        To the other members; where they say what they hold.
    log
        For leases that are lost.
    """

    def __init__(self, links: Links, feeds: Feeds, log: logging.Logger, *, timing: Timing = TIMING) -> None:
        self._timing = timing
        self._links, self._feeds = links, feeds
        self._identity = links.identity
        self._log = log
        self._grants: dict[str, _Grant] = {}
        self._seen: dict[str, Fence] = {}
        self._running: dict[str, tuple[Fence, asyncio.Event]] = {}
        self._news = asyncio.Event()
        #: One at a time on this node, too.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks = Tasks("A lease was not given back", log)
        links.handle(TakeLease, self._answer_take)
        links.handle(ReturnLease, self._answer_return)
        links.on_linked(self._linked)
        feeds.on_change(self._log_changed)
        stale = {name: lease for name in self._own() if (lease := self._lease(self._identity.id, name)) and lease.held}
        if stale:  # this node ended in the middle of something
            feeds.publish(LOG, {name: Lease(lease.number, held=False) for name, lease in stale.items()})

    async def stop(self) -> None:
        """End what goes on in the background."""
        await self._tasks.stop()

    async def run(self, name: str, work: Callable[[int], Awaitable[T]], waiting: Callable[[str], object]) -> T:
        """Do `work`, which is given the lease's number, while this node holds the lease.

        Parameters
        ----------
        name
            Of the lease.
        work
            Is cancelled when the lease is lost.
        waiting
            Called with the name of the member that holds the lease, as often as it is found held.

        Raises
        ------
        LeaseLost
            A part of the swarm that was met meanwhile has a holder with a higher number.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            return await self._run(name, work, waiting)

    async def _run(self, name: str, work: Callable[[int], Awaitable[T]], waiting: Callable[[str], object]) -> T:
        number = await self._acquire(name, waiting)
        fence, lost = Fence(number, self._identity.id), asyncio.Event()
        try:
            self._running[name] = (fence, lost)
            self._say(name, Lease(number, held=True))
            return await self._work(name, work(number), lost)
        finally:
            del self._running[name]
            self._take_back(name, self._identity.id)
            self._say(name, Lease(number, held=False))

    async def _work(self, name: str, work: Awaitable[T], lost: asyncio.Event) -> T:
        """Return what `work` gives; it is cancelled when the lease is lost or the caller gives up."""
        working = asyncio.ensure_future(work)
        losing = asyncio.create_task(lost.wait())
        try:
            await asyncio.wait((working, losing), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            holder = self._highest(name).holder
            msg = f"{self._name_of(holder)} does the same in the name of a later lease."
            self._log.warning("The lease %s is lost: %s", name, msg)
            raise LeaseLost(msg)
        finally:
            for task in (working, losing):
                task.cancel()
            await asyncio.gather(working, losing, return_exceptions=True)

    def check(self, name: str, number: int, holder: str) -> None:
        """Note that `holder` acts in the name of a lease; raises `LeaseLost` when a later one is known."""
        fence, highest = Fence(number, holder), self._highest(name)
        if fence < highest:
            raise LeaseLost(
                f"{self._name_of(highest.holder)} has a later lease for this (number {highest.number}, not {number})."
            )
        self._saw(name, fence)

    async def _acquire(self, name: str, waiting: Callable[[str], object]) -> int:
        """Return the number under which this node may hold the lease, as soon as nobody who is reached objects."""
        while True:
            self._news.clear()
            asked: list[PeerLink | None] = []
            number, holder = 0, self._identity.id
            try:
                for link in self._voters():
                    asked.append(link)
                    answer = await self._ask(link, name)
                    if answer is None:
                        continue
                    number = max(number, answer.number)
                    if answer.holder != self._identity.id:
                        holder = answer.holder
                        break
            except BaseException:
                self._give_back(name, asked)
                raise
            if holder == self._identity.id:
                return max(number, self._highest(name).number) + 1
            self._give_back(name, asked)
            self._news.clear()  # giving back is none
            waiting(self._name_of(holder))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.lease_look):
                    await self._news.wait()

    def _voters(self) -> list[PeerLink | None]:
        """Return a link to each member that is reached, None for this node, in the order of their ids."""
        voters: dict[str, PeerLink | None] = {link.peer_id: link for link in self._links.links()}
        voters[self._identity.id] = None
        return [voters[node] for node in sorted(voters)]

    async def _ask(self, link: PeerLink | None, name: str) -> Granted | None:
        if link is None:
            return self._grant(name, self._identity.id)
        try:
            answer: Granted = await link.request(TakeLease(name), timeout=self._timing.lease_ask)
        except AinetError as exc:
            self._log.info("%s has no say in the lease %s: %s", link.peer_name, name, exc.message)
            return None
        return answer

    def _give_back(self, name: str, asked: list[PeerLink | None]) -> None:
        for link in asked:
            if link is None:
                self._take_back(name, self._identity.id)
            else:
                self._tasks.spawn(link.request(ReturnLease(name), timeout=self._timing.lease_ask))

    def _grant(self, name: str, asker: str) -> Granted:
        highest = self._highest(name)
        holder = self._holder(name)
        if holder in (None, asker):
            self._grants[name] = _Grant(asker, highest.number, time.monotonic() + self._timing.lease_grant)
            return Granted(asker, highest.number)
        return Granted(holder, highest.number)

    def _holder(self, name: str) -> str | None:
        """Return who holds the lease, as far as this node knows, and can be reached."""
        grant = self._grants.get(name)
        if grant is not None:
            said = self._lease(grant.holder, name)
            is_taken = said is not None and said.number > grant.number
            waits = said.held if said is not None and is_taken else time.monotonic() < grant.until
            if self._reached(grant.holder) and waits:
                return grant.holder
            del self._grants[name]
        holders = [
            Fence(lease.number, member.id)
            for member in self._identity.roster.members
            if (lease := self._lease(member.id, name)) is not None and lease.held and self._reached(member.id)
        ]
        return max(holders).holder if holders else None

    def _reached(self, node: str) -> bool:
        return node == self._identity.id or self._links.open_link(node, Standing.MEMBER) is not None

    def _highest(self, name: str) -> Fence:
        said = [
            Fence(lease.number, member.id)
            for member in self._identity.roster.members
            if (lease := self._lease(member.id, name)) is not None
        ]
        return max([*said, self._seen.get(name, Fence(0, ""))])

    def _saw(self, name: str, fence: Fence) -> None:
        if fence > self._seen.get(name, Fence(0, "")):
            self._seen.pop(name, None)
            self._seen[name] = fence
            if len(self._seen) > MAX_REMEMBERED:
                del self._seen[next(iter(self._seen))]

    def _own(self) -> list[str]:
        return self._feeds.keys(self._identity.id, LOG)

    def _lease(self, node: str, name: str) -> Lease | None:
        found: Any = self._feeds.get(node, LOG, name, Lease)
        return found if isinstance(found, Lease) else None

    def _say(self, name: str, lease: Lease) -> None:
        changes: dict[str, Lease | None] = {name: lease}
        own = self._own()
        if len(own) >= MAX_REMEMBERED and name not in own:
            changes[next(one for one in own if one not in self._running)] = None
        self._feeds.publish(LOG, changes)

    def _linked(self, link: PeerLink) -> None:
        link.on_close(self._unlinked)
        self._look()

    def _unlinked(self, link: PeerLink) -> None:
        """Forget what was granted to a device that may be another one when it is back."""
        for name in [name for name, grant in self._grants.items() if grant.holder == link.peer_id]:
            self._take_back(name, link.peer_id)
        self._look()

    def _log_changed(self, _author: str, log: str) -> None:
        if log == LOG:
            self._look()

    def _look(self) -> None:
        self._news.set()
        for name, (fence, lost) in self._running.items():
            if self._highest(name) > fence:
                lost.set()

    def _name_of(self, node: str) -> str:
        if node == self._identity.id:
            return "this device"
        member = self._identity.roster.member(node)
        return member.name if member is not None else node[:8]

    async def _answer_take(self, link: PeerLink, request: TakeLease) -> Granted:
        return self._grant(request.name, link.peer_id)

    async def _answer_return(self, link: PeerLink, request: ReturnLease) -> None:
        self._take_back(request.name, link.peer_id)

    def _take_back(self, name: str, holder: str) -> None:
        grant = self._grants.get(name)
        if grant is not None and grant.holder == holder:
            del self._grants[name]
            self._look()
