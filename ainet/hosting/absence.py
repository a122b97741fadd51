"""Noticing that a member does not come back, or comes back as one that knows nothing of what was held for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ainet.links.standing import Standing
from ainet.timing import TIMING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ainet.links.link import PeerLink
    from ainet.links.links import Links


class AbsenceWatch:
    """Tells that a member has no link to this node any more and stays away, or that it was started anew.

    Parameters
    ----------
    links
        Of this node.
    seconds
        The time that a member may be away (s).
    gone
        Called with the node id of a member that stayed away for longer, or was started anew.
    """

    def __init__(self, links: Links, seconds: float, gone: Callable[[str], Awaitable[None]]) -> None:
        self._links = links
        self._seconds = seconds
        self._gone = gone
        #: The run of each member that is watched.
        self._watched: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def watch(self, link: PeerLink) -> None:
        """Watch the member at the other end until it stays away; a second time changes nothing.

        Returns when what an earlier run of it left has been told of: what begins then is not affected.
        """
        member, instance = link.peer_id, link.instance
        before = self._watched.get(member)
        if before == instance:
            return
        self._watched[member] = instance
        task = asyncio.create_task(self._run(member, instance), name=f"watching {member[:8]}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if before is not None:
            await self._gone(member)

    async def stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, member: str, instance: str) -> None:
        while not await self._stays_away(member, instance):
            if (link := self._links.open_link(member, Standing.MEMBER)) is not None:
                await link.closed.wait()
        if self._watched.get(member) == instance:  # else a later run has been told of
            del self._watched[member]  # before the callback: what the member begins from now on is watched anew
            await self._gone(member)

    async def _stays_away(self, member: str, instance: str) -> bool:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._seconds
        while (
            link := self._links.open_link(member, Standing.MEMBER)
        ) is None:  # links tell when they close, but not when they open
            if clock() >= deadline:
                return True
            await asyncio.sleep(min(TIMING.owner_look, self._seconds))
        return link.instance != instance
