"""Whose turn it is: sold sessions wait for the owner's question, and never one for the other."""

from __future__ import annotations

import asyncio
import contextlib

from ainet.api.generate import Progress, Start, Text
from ainet.economy.contribution import Record
from ainet.economy.resource_manager import ResourceManager
from ainet.economy.terms import Terms
from ainet.executor.answering import begins
from ainet.stages.protocol.flow import Flow


@contextlib.asynccontextmanager
async def served(every=0.05):
    """A session that is sold: the manager, and how far it may go."""
    manager, flow = ResourceManager(lambda _: Record(), every=every), Flow(10)
    manager.open(Terms(max_load=1.0))
    try:
        with manager.serving(bytes(16), flow):
            yield manager, flow
    finally:
        await manager.stop()


async def paused(flow, *, is_paused):
    async with asyncio.timeout(10):
        while flow.is_paused is not is_paused:
            await asyncio.sleep(0.01)


async def test_a_session_waits_while_the_owner_is_answered():
    async with served() as (manager, flow):
        with manager.waiting() as tell:
            assert flow.is_paused
            tell(True)
            await asyncio.sleep(0.3)  # several looks later it still does
            assert flow.is_paused
        assert not flow.is_paused


async def test_a_session_goes_on_where_the_owner_s_question_does_not_begin():
    async with served() as (manager, flow):
        with manager.waiting() as tell:
            await paused(flow, is_paused=False)
            tell(True)
            assert flow.is_paused
            tell(False)  # its stage was lost: it may wait for what the session has
            await paused(flow, is_paused=False)
            tell(True)
            assert flow.is_paused


def test_reading_a_long_question_is_no_new_beginning():
    assert begins(Start(model="m", placement=[], prompt_tokens=1)) is True
    assert begins(Text(text="a", tokens=[1])) is True
    assert begins(Progress(text="reading the question", done=1, total=9, unit="tokens")) is None
    assert begins(Progress(text="The stage was lost.", notice=True)) is False
