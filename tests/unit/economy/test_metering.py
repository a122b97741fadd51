"""Work is counted where it is done, while it is done."""

from __future__ import annotations

import asyncio

import pytest

from ainet.errors import StageLost
from ainet.executor.metered import metered
from ainet.hosting.stage_meter import StageMeter
from ainet.resources.work import Work
from ainet.stages.protocol.generation import Done, Open, Resume, Started, Text
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.state import StageState


class Answers:
    """A pipeline that says some tokens, and may be lost then."""

    model = "tiny"

    def __init__(self, *, is_own=True, is_lost=False):
        self.is_own, self.is_lost = is_own, is_lost

    async def ask(self, _request):
        yield Started(1, [1, 2, 3, 4], reused=2)
        for i in range(5):
            yield Text(1, "x", [i, i] if i == 2 else [i])
        if self.is_lost:
            raise StageLost("gone")
        yield Done(1, "stop", "")


def request(**more):
    return Open(session=1, messages=[], raw=False, sampling=SamplingParams(), max_tokens=9, **more)


def counted(pipeline, asked, requester, note):
    return metered(pipeline.ask(asked), pipeline, asked, requester, note)


def total(noted):
    return (
        sum(one.answers for one in noted),
        sum(one.prompt for one in noted),
        sum(one.generated for one in noted),
    )


async def test_an_answer_is_counted_token_by_token():
    noted = []
    events = [event async for event in counted(Answers(), request(), "you", noted.append)]
    assert len(events) == 7
    assert total(noted) == (1, 4, 6)
    assert {(one.kind, one.requester, one.model) for one in noted} == {("answer", "you", "tiny")}


async def test_what_came_of_a_lost_or_interrupted_answer_counts():
    noted = []
    with pytest.raises(StageLost):
        [event async for event in counted(Answers(is_lost=True), request(), "", noted.append)]
    assert total(noted) == (1, 4, 6)
    noted.clear()
    events = counted(Answers(), request(), "", noted.append)
    for _ in range(3):
        await anext(events)
    await events.aclose()
    assert total(noted) == (1, 4, 2)


async def test_a_prompt_counts_once_where_an_answer_goes_on_and_nothing_that_another_device_counts():
    noted = []
    resumed = request(resume=Resume([1, 2, 3, 4], [0]))
    [event async for event in counted(Answers(), resumed, "", noted.append)]
    assert total(noted) == (0, 0, 6)
    noted.clear()
    [event async for event in counted(Answers(is_own=False), request(), "", noted.append)]
    assert noted == []


class Stage:
    """A stage whose process has computed some rows."""

    name = "tiny"
    address = "there"

    class spec:  # noqa: N801 - stands for one
        owner, first_layer, last_layer = "you", 10, 14

    def __init__(self):
        self.actor, self.lost = self, asyncio.Event()
        self.measured = (0, 0.0)
        self.rows, self.seconds, self.asked = 0, 0.0, 0

    def state(self):
        self.asked += 1
        return StageState(0, 0, 0, 0.1, self.rows, self.seconds, {}, None)


async def ask(stage, call):
    if stage.lost.is_set():
        raise StageLost("gone")
    return call(stage.actor)


async def test_a_stage_is_counted_again_and_again_and_once_more_when_it_ends():
    noted, stage = [], Stage()
    stages = [stage]
    stage.rows, stage.seconds = 100, 9.0  # of whoever used its model before
    meter = StageMeter(lambda: stages, ask, noted.append, every=0.001)
    await meter.begin(stage)
    stage.rows, stage.seconds = 107, 9.5
    async with asyncio.timeout(20):
        while not noted:
            await asyncio.sleep(0.001)
    assert noted == [Work("layers", "you", "tiny", layer_tokens=35, seconds=0.5)]
    await meter.stop()
    stage.rows = 108
    await meter.last(stage, stage.actor)
    assert noted[1:] == [Work("layers", "you", "tiny", layer_tokens=5)]
    await meter.measure(stage)
    assert len(noted) == 2
    stage.lost.set()
    stage.rows = 200
    await meter.last(stage, stage.actor)
    assert len(noted) == 2


async def test_nobody_is_asked_where_there_is_no_stage():
    stage, stages = Stage(), []
    meter = StageMeter(lambda: stages, ask, print, every=0.001)
    await meter.begin(stage)
    async with asyncio.timeout(20):
        while not meter._looking.done():
            await asyncio.sleep(0.001)
    assert stage.asked == 1
    await meter.stop()
