"""The economy of this node: what was done, for whom, and what is owed for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from ainet.api import economy as shown
from ainet.economy.usage import HOUR
from ainet.economy.usage_exchange import UsageExchange
from ainet.economy.usage_sums import days_of, sums
from ainet.errors import AinetError
from ainet.resources.work import Work
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable

    from ainet.api.answers import Answers
    from ainet.economy.usage import UsageBook
    from ainet.links.links import Links
    from ainet.timing import Timing


class Economy:
    """Keeps the book of this node, and answers what its owner wants to know of it.

    Parameters
    ----------
    book
        What devices did.
    links
        To the other devices.
    look
        Takes note of what was computed until now.
    kept
        Returns how many bytes are kept here for others (node ids).
    """

    def __init__(
        self,
        *,
        book: UsageBook,
        links: Links,
        look: Callable[[], Awaitable[object]],
        kept: Callable[[], Awaitable[dict[str, int]]],
        answers: Answers,
        log: logging.Logger,
        timing: Timing,
    ) -> None:
        self._links, self._look_now, self._kept, self._log = links, look, kept, log
        self.book = book
        self._patience = timing.usage_asked / 2
        self._exchange = UsageExchange(self.book, links, log, look=self._look, patience=timing.usage_asked)
        links.channels.relayed.connect(lambda peer, size: book.note(Work("relay", peer, size=size)))
        self._looking = asyncio.create_task(self._go_on(timing.kept_counted), name="what is kept for others")
        self._tasks = Tasks("Usage of the swarm before was not forgotten", log)
        links.home.on_left(self._left)
        answers.add(shown.usage, self.usage)

    async def usage(self, by: shown.UsageBy = "peer", days: int = 7) -> shown.Usage:
        """Return what the owner's devices did on the last days, today included."""
        names = {one.id: one.name for one in self._links.members()}
        await self._look()
        away = await self._exchange.ask(list(names))
        names |= {contact.id: contact.name for contact in self._links.identity.contacts.all()}
        since = _midnight(days)
        rows = await self.book.rows(since // HOUR)
        return shown.Usage(
            days=days,
            by=by,
            sums=sums(rows, by, names),
            plot=days_of(rows, names),
            away=sorted(names[one] for one in away),
            problem=self.book.failed,
        )

    async def stop(self) -> None:
        """Count and ask no more."""
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        await self._exchange.stop()
        await self._tasks.finish()

    async def _look(self) -> None:
        """Have all that was done noted; of what is computed, what comes in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await self._look_now()
        try:
            for node, size in (await self._kept()).items():
                self.book.note(Work("storage", node, size=size))
        except AinetError as exc:
            self._log.warning("What is kept for others could not be counted: %s", exc.message)

    def _left(self, left: str | None) -> None:
        if left is not None:
            self._tasks.spawn(self.book.clear())

    async def _go_on(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            await self._look()


def _midnight(days: int) -> int:
    """Return when the first of the last `days` days began here (unix seconds)."""
    today = time.localtime()
    return int(time.mktime((today.tm_year, today.tm_mon, today.tm_mday - days + 1, 0, 0, 0, 0, 0, -1)))
