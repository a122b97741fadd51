"""What there is of each kind of news, and who says that it has changed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING

from ainet.api import news as shown
from ainet.errors import AinetError
from ainet.links.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ainet.api.context import ContextFolder
    from ainet.api.ledger import PairBalance
    from ainet.api.market import SoldModel
    from ainet.api.node import StageFigures
    from ainet.api.swarm import MemberState
    from ainet.context.context import Context
    from ainet.executor.provider import Provider
    from ainet.executor.running import RunningAnswers
    from ainet.links.links import Links
    from ainet.node.news import NewsDesk
    from ainet.node.trading import Trading

#: Seconds after which latencies and the times of stages are looked at again, while somebody listens.
AGAIN = 2.0
#: Seconds between two times that stages are asked.
REST = 0.5
#: The time of a member that is linked is told to the minute.
MINUTE = 60.0


class NewsSources:
    """Lets a desk know the parts of a node.

    Parameters
    ----------
    desk
        Tells listeners.
    """

    def __init__(
        self,
        desk: NewsDesk,
        *,
        links: Links,
        provider: Provider,
        running: RunningAnswers,
        context: Context,
        trading: Trading,
    ) -> None:
        self._desk, self._links, self._provider, self._running = desk, links, provider, running
        self._context, self._trading = context, trading
        self._figures: dict[str, list[StageFigures]] = {}
        #: An answer grows whose stages were not asked yet.
        self._unmeasured = asyncio.Event()
        members, linked = desk.add("members", self._members), desk.add("links", self._links_now)
        for told in (members, linked):
            links.table.changed.connect(told)
            links.on_revoked(told)
            links.home.on_left(told)
        placed = desk.add("placements", self._placements)
        provider.pipelines.changed.connect(placed)
        running.changed.connect(desk.add("sessions", self._sessions))
        provider.loads.changed.connect(desk.add("downloads", self._downloads))
        context.changed.connect(desk.add("context", self._folders))
        owed = desk.add("ledger", self._balances)
        trading.accounts.changed.connect(owed)
        links.on_revoked(owed)
        trading.selling.changed.connect(desk.add("offers", self._offers))
        self._looking = asyncio.create_task(self._look_again(), name="news of what nobody tells")

    async def stop(self) -> None:
        """Look at nothing any more."""
        self._desk.stop()
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)

    async def _members(self) -> Mapping[str, MemberState]:
        return {
            one.id: dataclasses.replace(
                one,
                last_seen=None if one.last_seen is None else one.last_seen // MINUTE * MINUTE,
                certificate_days=round(one.certificate_days, 2),
            )
            for one in self._links.members()
        }

    async def _links_now(self) -> Mapping[str, shown.LinkState]:
        links = [link for standing in (Standing.CONTACT, Standing.MEMBER) for link in self._links.table.links(standing)]
        return {
            link.peer_id: shown.LinkState(
                link.peer_name,
                link.standing is Standing.MEMBER,
                link.path,
                link.relay is not None,
                None if link.latency is None else float(f"{link.latency:.2g}"),
            )
            for link in links
        }

    async def _placements(self) -> Mapping[str, shown.Placement]:
        return {
            one.name: shown.Placement(one.model, one.placement, one.sessions, one.received)
            for one in self._provider.pipelines.usable()
        }

    async def _sessions(self) -> Mapping[str, shown.Session]:
        names = {one.id: one.name for one in self._links.members()}
        names |= {one.id: one.name for one in self._links.identity.contacts.all()}
        names[""] = self._links.identity.name
        found = {}
        if any(one.pipeline.name not in self._figures for _, one in self._running):
            self._unmeasured.set()
        for number, one in self._running:
            speed = one.tokens_per_s
            found[str(number)] = shown.Session(
                one.pipeline.model,
                one.pipeline.name,
                names.get(one.requester, one.requester[:8]),
                one.prompt_tokens,
                one.generated_tokens,
                float(f"{speed:.3g}"),
                [
                    shown.StageTime(
                        placed.device, stage.first_layer, stage.last_layer, stage.token_seconds, _waiting(stage, speed)
                    )
                    for placed, stage in zip(
                        one.pipeline.placement, self._figures.get(one.pipeline.name, ()), strict=False
                    )
                ],
            )
        return found

    async def _measure(self) -> None:
        """Ask the stages of what is used for their times."""
        used = {one.pipeline.name for _, one in self._running}
        figures = {}
        for loaded in self._provider.pipelines.usable():
            if loaded.name in used:
                with contextlib.suppress(AinetError, TimeoutError):  # they may be about to be placed anew
                    async with asyncio.timeout(AGAIN):
                        figures[loaded.name] = await loaded.figures()
        self._figures = figures

    async def _downloads(self) -> Mapping[str, shown.Download]:
        return {
            str(number): shown.Download(model, one.text, one.done, one.total, one.unit)
            for number, model, one in self._provider.loads
        }

    async def _folders(self) -> Mapping[str, ContextFolder]:
        return {one.path: one for one in await self._context.folders()}

    async def _balances(self) -> Mapping[str, PairBalance]:
        return {one.peer: one for one in (await self._trading.books.balance()).accounts}

    async def _offers(self) -> Mapping[str, SoldModel]:
        return {one.name: one for one in (await self._trading.market.selling()).models}

    async def _look_again(self) -> None:
        """Have what changes all the time, and what nobody tells, looked at now and then."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN):
                    await self._unmeasured.wait()
            self._unmeasured.clear()
            if not self._desk.listeners:
                continue
            self._desk.touch("members")
            self._desk.touch("links")
            if self._desk.is_heard("sessions") and any(True for _ in self._running):
                await self._measure()
                self._desk.touch("sessions")
                await asyncio.sleep(REST)


def _waiting(stage: StageFigures, speed: float) -> float:
    """Return how long a stage waits between two tokens of a session (s)."""
    return round(max(1 / speed - stage.token_seconds, 0.0), 5) if speed else 0.0
