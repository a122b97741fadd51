"""Dialling: the first of several addresses, or of several members that relay, by which a device is reached."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ainet.errors import AinetError, PeerUnreachable, Refused
from ainet.links.frames import ToNode
from ainet.wire.carrier import dial
from ainet.wire.stream import SecureStream

if TYPE_CHECKING:
    import logging
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from ainet.links.link import PeerLink
    from ainet.links.link_table import LinkTable

T = TypeVar("T")

#: The next address is tried when the one before has not answered for this long (s); as RFC 8305 recommends.
STAGGER = 0.25


class Attempts(NamedTuple):
    """The outcome of trying addresses: words for each that did not answer, and the last refusal."""

    reasons: list[str]
    refused: Refused | None


class Dialler:
    """Makes links to members and contacts, one attempt for each at a time.

    Parameters
    ----------
    table
        The open links, to which new ones are added.
    context
        Returns the TLS context of the dialling end.
    log
        For refusals.
    """

    def __init__(self, table: LinkTable, context: Callable[[], ssl.SSLContext], log: logging.Logger) -> None:
        self._table = table
        self._context = context
        self._log = log
        self._dialling: dict[str, asyncio.Task[PeerLink]] = {}

    async def stop(self) -> None:
        """Give up whatever is being dialled."""
        tasks = list(self._dialling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def start(self, node_id: str, name: str) -> asyncio.Task[PeerLink]:
        """Dial the device at all of its addresses, unless that is going on already; see `_dial` for what it raises."""
        task = self._dialling.get(node_id)
        if task is None:
            task = self._dialling[node_id] = asyncio.create_task(self._dial(node_id, name))
            task.add_done_callback(lambda done: self._dialled(node_id, done))
        return task

    async def reach(self, address: str, name: str, node_id: str | None = None) -> PeerLink:
        """Return a link to the device at this address, whichever it is unless `node_id` says so.

        Raises
        ------
        PeerUnreachable, Refused
            It does not answer, is another one, or may not be linked.
        """
        stream = SecureStream(await dial(address), self._context(), server_side=False, peer=name)
        return await self._table.establish(stream, address, node_id)

    async def _dial(self, node_id: str, name: str) -> PeerLink:
        async def attempt(address: str) -> PeerLink:
            try:
                return await self.reach(address, name, node_id)
            except Refused as exc:
                self._log.warning("The link to %s at %s was refused: %s", name, address, exc.message)
                raise

        found = await first(self._table.known_addresses(node_id), attempt)
        if not isinstance(found, Attempts):
            return found
        if link := self._table.open_link(node_id):  # it dialled this node meanwhile, or is reached through another one
            return link
        is_member = self._table.identity.roster.member(node_id) is not None
        if is_member and (link := await self._dial_through_members(node_id, name)):
            return link
        if found.refused is not None:
            raise found.refused
        if not found.reasons:
            raise PeerUnreachable(
                f"Nobody has told this node yet where {name} listens. It becomes known when {name} is running."
            )
        raise PeerUnreachable(f"{name} does not answer ({'; '.join(found.reasons)}). Is ainet running there?")

    async def _dial_through_members(self, node_id: str, name: str) -> PeerLink | None:
        others = [link for link in self._table.links() if link.relay is None and link.peer_id != node_id]
        relays = {link.peer_id: link for link in others}

        async def attempt(relay: str) -> PeerLink:
            channel = self._table.channels.open(relay, ToNode(node_id))
            stream = SecureStream(channel, self._context(), server_side=False, peer=name)
            return await self._table.establish(stream, f"through {relays[relay].peer_name}", node_id, relay=relay)

        found = await first(list(relays), attempt)
        return None if isinstance(found, Attempts) else found

    def _dialled(self, node_id: str, task: asyncio.Task[PeerLink]) -> None:
        del self._dialling[node_id]
        if not task.cancelled():
            task.exception()  # whoever waited has seen it


async def first(addresses: Sequence[str], attempt: Callable[[str], Awaitable[T]]) -> T | Attempts:
    """Try the addresses in their order, a slow one and the next at the same time; return what the first one gives.

    Parameters
    ----------
    attempt
        Tries one address; raises `PeerUnreachable` or `Refused`.
    """
    waiting = list(addresses)
    tasks: dict[asyncio.Future[T], str] = {}
    reasons: list[str] = []
    refused: Refused | None = None
    try:
        while waiting or tasks:
            if waiting:
                address = waiting.pop(0)
                tasks[asyncio.ensure_future(attempt(address))] = address
            patience = STAGGER if waiting else None
            done, _ = await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                address = tasks.pop(task)
                try:
                    return task.result()
                except Refused as exc:
                    refused = exc
                except PeerUnreachable as exc:
                    reasons.append(exc.message if exc.message.startswith(address) else f"{address}: {exc.message}")
                except AinetError as exc:
                    reasons.append(f"{address}: {exc.message}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return Attempts(reasons, refused)
