"""Background work for links: dial members, renew certificates."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from ainet.errors import AinetError, Refused
from ainet.identity.roster import Member
from ainet.links.request import RenewCertificate
from ainet.tasks import Tasks
from ainet.timing import TIMING
from ainet.wire.interfaces import host_addresses

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable

    from ainet.identity.contacts import Contact
    from ainet.links.link import PeerLink
    from ainet.links.link_table import LinkTable
    from ainet.links.trust import Trust

TICK = 1.0  # seconds
LOOK_SECONDS = 2.0  # between two looks at this device's addresses
RENEWAL_RETRY = 600.0  # seconds


class Upkeep:
    """Keeps this node linked to every member that can be reached, and its certificate young.

    Parameters
    ----------
    table, trust
        The open links; who may have one.
    dial
        Tries to reach a device on the best path, also when there is a link already.
    network_changed
        Called when this device has other addresses than before.
    log
        For certificates, and for what fails.
    """

    def __init__(
        self,
        table: LinkTable,
        trust: Trust,
        dial: Callable[[str], Awaitable[None]],
        network_changed: Callable[[], Awaitable[None]],
        log: logging.Logger,
    ) -> None:
        self._table = table
        self._trust = trust
        self._dial_anew = dial
        self._network_changed = network_changed
        self._identity = table.identity
        self._log = log
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._dials = Tasks("A device was not dialled", log)
        self._retry: dict[str, tuple[float, float]] = {}  # node id: when (loop time), after how many seconds again
        self._next_renewal = 0.0
        self._started = False
        self._hosts: list[str] = []  # this device's addresses
        self._next_look = 0.0
        table.changed.connect(lambda is_back: self.reset() if is_back else self.wake())

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._dials.stop()

    def wake(self) -> None:
        """Look at once: a link came or went."""
        self._wake.set()

    def reset(self, node_id: str | None = None) -> None:
        """Dial this member, or all, at once, however long it did not answer: it may be elsewhere now."""
        for member in [node_id] if node_id else list(self._retry):
            self._retry[member] = (0.0, TIMING.first_retry)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._look_at_network()
                self._cut_expired()
                await self._renew()
                self._dial()
            except Exception:
                self._log.exception("Looking after the links failed; it is tried again.")
            self._wake.clear()
            try:
                async with asyncio.timeout(TICK):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _look_at_network(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        before, self._hosts = self._hosts, host_addresses()
        if before != self._hosts and self._started:
            await self._network_changed()

    def _cut_expired(self) -> None:
        if self._identity.expired and not self._identity.holds_ca and self._table.links():
            problem = Refused(str(self._identity.problem))
            self._log.warning("%s", problem.message)
            self._table.close_all(problem)
        for link in self._table.expired_links():
            msg = f"The certificate of {link.peer_name} has expired. It must join again with a new ticket."
            self._log.warning("%s", msg)
            link.close(Refused(msg))

    def _dial(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._identity.problem:
            return
        others: list[Member | Contact] = [*self._identity.roster.members, *self._identity.contacts.all()]
        for member in others:
            if member.id == self._identity.id:
                continue
            link = self._table.open_link(member.id)
            if link is not None and link.relay is None:
                self._retry.pop(member.id, None)
                continue
            # Both ends miss a link at the same time. One waits longer: a second link would only be idle.
            first = now + TIMING.first_retry * (0.5 if self._identity.id < member.id else 1.5) if self._started else now
            when, pause = self._retry.setdefault(member.id, (first, TIMING.first_retry))
            # Whose address is unknown may be known to a member that relays; a relayed link waits for a direct one.
            if now >= when and (self._table.known_addresses(member.id) or self._may_be_relayed(member, link)):
                self._retry[member.id] = (now + pause * random.uniform(0.7, 1.3), min(2 * pause, TIMING.last_retry))  # noqa: S311
                self._dials.spawn(self._dial_one(member.id))
        self._started = True

    def _may_be_relayed(self, member: Member | Contact, link: PeerLink | None) -> bool:
        return link is None and isinstance(member, Member) and bool(self._table.links())

    async def _dial_one(self, node_id: str) -> None:
        try:
            await self._dial_anew(node_id)
        except AinetError as exc:
            self._log.debug("%s", exc.message)

    async def _renew(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._identity.renewal_due or self._identity.removed or now < self._next_renewal:
            return
        if self._identity.holds_ca:
            self._identity.renew_own()
            self._trust.roster_changed()
            return
        holders = {member.id for member in self._identity.roster.members if member.holds_ca}
        for link in self._table.links():
            if link.peer_id not in holders:
                continue
            self._next_renewal = now + RENEWAL_RETRY
            try:
                renewed = await link.request(RenewCertificate(self._identity.request()), timeout=10.0)
                self._identity.accept_renewal(renewed.certificate)
            except AinetError as exc:
                self._log.warning("This device's certificate could not be renewed: %s", exc.message)
            else:
                self._log.info("This device's certificate was renewed for %d days.", self._identity.days_left)
                return
