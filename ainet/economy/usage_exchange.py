"""The owner's devices tell each other what they did."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import msgspec

from ainet.economy.usage import HOUR, KEPT_HOURS, MOST_ROWS, Hour, UsageRow
from ainet.errors import AinetError
from ainet.links.request import Request
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable, Sequence

    from ainet.economy.usage import UsageBook
    from ainet.links.link import PeerLink
    from ainet.links.links import Links


class UsageRows(msgspec.Struct, frozen=True):
    """What a device did, by the hour; `more` says that later hours are still to be asked for."""

    rows: Annotated[list[UsageRow], msgspec.Meta(max_length=MOST_ROWS)]
    more: bool = False


class ReadUsage(Request, frozen=True):
    """Ask what a device did itself from an hour on."""

    reply = UsageRows

    since: Hour


class UsageExchange:
    """Asks members when they are linked and when the owner wants to know, and answers them.

    Parameters
    ----------
    look
        Has all noted that was done until now.
    patience
        Seconds within which a member must answer when the owner waits.
    """

    def __init__(
        self,
        book: UsageBook,
        links: Links,
        log: logging.Logger,
        *,
        look: Callable[[], Awaitable[object]],
        patience: float,
    ) -> None:
        self._book, self._links, self._look, self._patience = book, links, look, patience
        self._tasks = Tasks("Usage was not exchanged", log)
        self._asking: dict[str, asyncio.Lock] = {}
        links.handle(ReadUsage, self._answer)
        links.on_linked(lambda link: self._tasks.spawn(self._read(link)))

    async def ask(self, members: Sequence[str]) -> list[str]:
        """Ask all members that are linked what they did lately; returns those (node ids) that did not say so."""
        links = {link.peer_id: link for link in self._links.links()}
        asked = [links[one] for one in members if one in links]
        found = await asyncio.gather(*(self._in_time(link) for link in asked))
        told = {link.peer_id for link, is_told in zip(asked, found, strict=True) if is_told}
        return [one for one in members if one not in told and one != self._links.identity.id]

    async def stop(self) -> None:
        """Ask nobody any more."""
        await self._tasks.stop()

    async def _in_time(self, link: PeerLink) -> bool:
        try:
            async with asyncio.timeout(self._patience):
                await self._read(link)
        except (AinetError, TimeoutError):
            return False
        return True

    async def _read(self, link: PeerLink) -> None:
        """Read what a member did since what is known of it; the last hour may have grown."""
        async with self._asking.setdefault(link.peer_id, asyncio.Lock()):
            now = int(time.time()) // HOUR  # its clock may have been ahead
            since = max(min(await self._book.latest(link.peer_id), now), now - KEPT_HOURS, 0)
            while True:
                answer = await link.request(ReadUsage(since))
                if answer.rows:
                    await self._book.receive(link.peer_id, answer.rows)
                if not answer.more or not answer.rows or answer.rows[-1].hour < since:
                    return
                since = answer.rows[-1].hour + 1

    async def _answer(self, _link: PeerLink, request: ReadUsage) -> UsageRows:
        await self._look()
        found = await self._book.rows(request.since, self._links.identity.id)
        rows = [one.row for one in found]
        if len(rows) <= MOST_ROWS:
            return UsageRows(rows)
        last = rows[MOST_ROWS].hour  # hours are told whole
        whole = [row for row in rows[:MOST_ROWS] if row.hour < last]
        return UsageRows(whole or rows[:MOST_ROWS], more=True)
