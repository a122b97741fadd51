"""Noticing that a member does not come back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ainet.network import Links

#: What is held for a member is given up when it was away for this long (s); a broken link is dialled again sooner.
GRACE_SECONDS = 10.0
#: How often it is looked whether a member is back (s).
LOOK_SECONDS = 0.2


class AbsenceWatch:
    """Tells, once for each `watch`, that a member has no link to this node any more and stays away.

    Parameters
    ----------
    links
        Of this node.
    seconds
        How long a member may be away.
    gone
        Called with the node id of a member that stayed away for longer.
    """

    def __init__(self, links: Links, seconds: float, gone: Callable[[str], Awaitable[None]]) -> None:
        self._links = links
        self._seconds = seconds
        self._gone = gone
        self._watched: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, member: str) -> None:
        """Watch the member with this node id until it stays away; a second time changes nothing."""
        if member not in self._watched:
            self._watched.add(member)
            task = asyncio.create_task(self._run(member), name=f"watching {member[:8]}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Stop watching."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, member: str) -> None:
        try:
            while not await self._stays_away(member):
                if (link := self._links.linked(member)) is not None:
                    await link.closed.wait()
        finally:
            self._watched.discard(member)  # before it is told: what the member begins from now on is watched anew
        await self._gone(member)

    async def _stays_away(self, member: str) -> bool:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._seconds
        while self._links.linked(member) is None:  # links tell when they close, but not when they open
            if clock() >= deadline:
                return True
            await asyncio.sleep(min(LOOK_SECONDS, self._seconds))
        return False
