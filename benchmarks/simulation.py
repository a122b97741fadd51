"""A thousand nodes in one process: the real sync code, over links that only hand messages over."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from swarm import LOG, PLAN, numbers, until

from ainet.documents.exchange import Documents
from ainet.links.standing import Standing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class HandedOver:
    """A link that hands messages to the other node's handlers, in the same process."""

    standing = Standing.MEMBER

    def __init__(self, mine: FakeLinks, theirs: FakeLinks) -> None:
        self.mine, self.theirs = mine, theirs
        self.peer_id = self.peer_name = theirs.identity.id
        self.back: HandedOver | None = None

    async def request(self, request: Any) -> Any:
        """Have the other node answer."""
        self.mine.messages += 1
        await asyncio.sleep(0)
        return await self.theirs.handlers[type(request).__name__](self.back, request)

    async def stream(self, request: Any) -> AsyncGenerator[Any, None]:
        """Have the other node answer in parts."""
        self.mine.messages += 1
        async for part in self.theirs.handlers[type(request).__name__](self.back, request):
            yield part


class FakeLinks:
    """The links of one of many nodes in a process."""

    def __init__(self, name: str) -> None:
        self.identity = SimpleNamespace(id=name, roster=SimpleNamespace(member=lambda node: node))
        self.handlers: dict[str, Any] = {}
        self.known: dict[str, HandedOver] = {}
        self.messages = 0
        self.home = SimpleNamespace(on_left=lambda _: None)  # nobody joins another swarm
        self._callbacks: list[Any] = []

    def handle(self, kind: type, handler: Any) -> None:
        """Answer requests."""
        self.handlers[kind.__name__] = handler

    def on_linked(self, callback: Any, standing: Standing = Standing.MEMBER) -> None:
        """Hear of links to members; there are no contacts."""
        if standing is Standing.MEMBER:
            self._callbacks.append(callback)

    def links(self) -> list[HandedOver]:
        """Return all links."""
        return list(self.known.values())

    def open_link(self, node_id: str, standing: Standing | None = None) -> HandedOver | None:
        """Return the link to a node."""
        del standing
        return self.known.get(node_id)

    def meet(self, other: FakeLinks) -> None:
        """Link two nodes."""
        here, there = HandedOver(self, other), HandedOver(other, self)
        here.back, there.back = there, here
        for node, link in ((self, here), (other, there)):
            node.known[link.peer_id] = link
            for callback in node._callbacks:
                callback(link)


async def simulated(n: int, degree: int = 4) -> dict[str, float]:
    """Return how an edit spreads over `n` nodes of which each knows `degree` others, with the real sync code."""
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        nodes = [FakeLinks(f"node{i}") for i in range(n)]
        documents = [Documents(node, Path(folder) / f"{i}.sqlite", LOG) for i, node in enumerate(nodes)]  # type: ignore[arg-type]
        for one in documents:
            one.open(PLAN)
        for i, node in enumerate(nodes):
            node.meet(nodes[(i + 1) % n])
            for other in chance.sample(nodes, degree // 2 - 1):
                if other is not node:
                    node.meet(other)
        await until(lambda: not any(one._tasks.busy for one in documents))
        before = sum(node.messages for node in nodes)
        begun = time.perf_counter()
        numbers(documents[0])["edit"] = 1
        await until(lambda: all(numbers(one).get("edit") == 1 for one in documents))
        seconds = time.perf_counter() - begun
        await until(lambda: not any(one._tasks.busy for one in documents))
        messages = sum(node.messages for node in nodes) - before
        for one in documents:
            await one.stop()
        return {"nodes": n, "seconds": seconds, "messages_a_node": messages / n}
