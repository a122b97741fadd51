"""Stages on devices that cannot be told that their pipeline has ended: they are told later."""

from __future__ import annotations

import asyncio

import pytest
from support.local_nodes import ask, nodes
from support.swarms import until

from ainet.api.models import unload_all
from ainet.errors import PeerUnreachable
from ainet.hosting.requests import CloseStages
from ainet.timing import Timing


class Deaf:
    """A node that does not answer when it is told to close stages, until it may."""

    def __init__(self, node):
        self._handlers = node.links.table._handlers
        self._kind, self._handler = self._handlers[CloseStages.__name__]
        self.asked, self.may_hear = 0, asyncio.Event()
        self._handlers[CloseStages.__name__] = (self._kind, self.handle)

    async def handle(self, link, request):
        self.asked += 1
        if not self.may_hear.is_set():
            raise PeerUnreachable("This device is asleep.")
        return await self._handler(link, request)

    async def never(self, _link, _request):
        self.asked += 1
        await self.may_hear.wait()

    def hangs(self):
        self._handlers[CloseStages.__name__] = (self._kind, self.never)

    def hears(self):
        self._handlers[CloseStages.__name__] = (self._kind, self._handler)
        self.may_hear.set()


def reserved(node):
    return node.allocator.reserved.memory


MEMORY = {"memory": "185MB"}


async def test_a_device_that_was_not_told_is_told_until_it_knows(tmp_path):
    async with nodes(tmp_path, Timing(untold_again=0.05), desk=MEMORY, attic=MEMORY) as found:
        desk, attic = found["desk"], found["attic"]
        await ask(desk)
        deaf = Deaf(attic)
        await desk.call(unload_all)
        assert reserved(desk) == 0 < reserved(attic)
        await until(lambda: deaf.asked > 2)
        deaf.may_hear.set()
        await until(lambda: not reserved(attic))
        await ask(desk)
        await desk.call(unload_all)
        assert reserved(attic) == 0


async def test_what_is_planned_next_has_the_memory_of_what_was_not_told(tmp_path):
    async with nodes(tmp_path, Timing(untold_again=600.0), desk=MEMORY, attic=MEMORY) as found:
        desk, attic = found["desk"], found["attic"]
        await ask(desk)
        deaf = Deaf(attic)
        await desk.call(unload_all)
        deaf.may_hear.set()
        assert len((await ask(desk)).placement) == 2
        assert reserved(attic) < 185e6


async def test_a_device_may_be_told_twice_at_once(tmp_path):
    async with nodes(tmp_path, Timing(untold_again=600.0), desk=MEMORY, attic=MEMORY) as found:
        desk, attic = found["desk"], found["attic"]
        await ask(desk)
        pipeline = desk.provider.pipelines.usable()[0]
        deaf = Deaf(attic)
        await desk.call(unload_all)
        assert pipeline.untold == {attic.identity.id}
        deaf.may_hear.set()
        await asyncio.gather(pipeline.notify(), pipeline.notify())  # in the background, and by who needs the memory
        assert not pipeline.untold
        assert reserved(attic) == 0


async def test_a_device_is_told_also_when_who_closes_was_interrupted(tmp_path):
    async with nodes(tmp_path, Timing(untold_again=0.05), desk=MEMORY, attic=MEMORY) as found:
        desk, attic = found["desk"], found["attic"]
        await ask(desk)
        deaf = Deaf(attic)
        deaf.hangs()
        unloading = asyncio.create_task(desk.call(unload_all))
        await until(lambda: deaf.asked)
        unloading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unloading
        deaf.hears()
        await until(lambda: not reserved(attic))
