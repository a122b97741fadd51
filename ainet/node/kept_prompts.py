"""Earlier prompts, of which pipelines keep keys and values: here, and on members that were asked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from ainet.errors import AinetError
from ainet.executor.requests import ForgetPrompts
from ainet.files import write_private
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import Collection
    from pathlib import Path

    from ainet.executor.answering import Answering
    from ainet.executor.provider import Provider
    from ainet.hosting.stages import HostedStages
    from ainet.links.link import PeerLink
    from ainet.links.links import Links

#: Where the members are noted that have not heard yet.
FILE = "untold_prompts.json"
#: What the file holds: node ids.
Untold = set[str]


class KeptPrompts:
    """Has nothing kept of earlier prompts, where that is wished.

    Parameters
    ----------
    provider, stages
        What is loaded here.
    answering
        Knows which members have asked what is loaded here.
    links
        To members, of which some may be away: they hear when they are back.
    data_dir
        The node's data directory.
    """

    def __init__(
        self,
        provider: Provider,
        stages: HostedStages,
        answering: Answering,
        links: Links,
        *,
        data_dir: Path,
        log: logging.Logger,
    ) -> None:
        self._provider, self._stages, self._answering, self._links = provider, stages, answering, links
        self._path = data_dir / FILE
        self._log = log
        self._noting = asyncio.Lock()
        #: How often members were to forget: who was told before the last time is told once more.
        self._times = 0
        self._tasks = Tasks("Members may still keep prompts with what was forgotten", log)
        links.handle(ForgetPrompts, self._answer)
        links.on_linked(lambda link: self._tasks.spawn(self._tell(link)))

    async def forget(self) -> None:
        """Unload all pipelines, and what is kept of them: nothing is left of earlier prompts here."""
        await self._provider.unload()
        await self._stages.parking.clear()

    async def forget_on_members(self) -> None:
        """Have members keep nothing of this device's prompts: at once, or as soon as they are linked again."""
        me = self._links.identity.id
        async with self._noting:
            self._times += 1
            await self._note({member.id for member in self._links.identity.roster.members} - {me})
        for link in self._links.links():
            self._tasks.spawn(self._tell(link))

    async def stop(self) -> None:
        """End what is being done."""
        await self._tasks.stop()

    async def _tell(self, link: PeerLink) -> None:
        while link.peer_id in await asyncio.to_thread(self._untold):
            times = self._times
            try:
                await link.request(ForgetPrompts())
            except AinetError as exc:
                self._log.info("%s may still keep prompts with what was forgotten: %s", link.peer_name, exc.message)
                return
            async with self._noting:
                if times == self._times:
                    await self._note(await asyncio.to_thread(self._untold) - {link.peer_id})

    async def _answer(self, link: PeerLink, _request: ForgetPrompts) -> None:
        await self._answering.forget(link.peer_id)

    def _untold(self) -> set[str]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Untold)
        except (FileNotFoundError, msgspec.DecodeError):  # a damaged one is written anew when there is something
            return set()

    async def _note(self, untold: Collection[str]) -> None:
        if untold:
            await asyncio.to_thread(write_private, self._path, msgspec.json.encode(sorted(untold)))
        else:
            await asyncio.to_thread(self._path.unlink, missing_ok=True)
