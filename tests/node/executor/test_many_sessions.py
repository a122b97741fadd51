"""Many sessions on one pipeline: in exact mode every text is that of one process, whoever shares the stages."""

from __future__ import annotations

import asyncio
import contextlib
import random

import msgspec
import pytest
from support.smollm2 import N_CTX, one_process
from support.whole_stage import ENDLESS
from support.workshop import GREEDY, answer, ask

from ainet.errors import Busy
from ainet.stages.protocol.generation import Done, Started, Text
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.spec import EXACT_UBATCH

DRAWN = SamplingParams(temperature=0.9, seed=3, repeat_penalty=1.1)
QUESTIONS = [
    ("Tell me about rain.", GREEDY, 60),
    ("Name three colours.", DRAWN, 40),
    ("What does a fox eat? " + "The fox and the dog sat by the river. " * 30, GREEDY, 20),
    ("Why is the sky blue?", GREEDY, 50),
    ("Write a poem about the sea.", DRAWN, 60),
    ("Hello!", GREEDY, 10),
]


@pytest.fixture(scope="module")
def expected(smollm2_path):
    """What one process answers to each question, alone."""
    return [one_process(smollm2_path, question, sampling, n, chunk=EXACT_UBATCH) for question, sampling, n in QUESTIONS]


@pytest.mark.parametrize("stages", [1, 2, 3])
async def test_texts_do_not_depend_on_who_shares_the_stages(workshop, expected, stages):
    pipeline = await workshop.load(stages, exact=True, sessions=3, queue=10)
    chance = random.Random(stages)
    wanted = [*range(len(QUESTIONS)), *range(len(QUESTIONS))]
    chance.shuffle(wanted)

    async def one(i):
        question, sampling, n = QUESTIONS[i]
        await asyncio.sleep(chance.uniform(0, 0.5))
        return await answer(pipeline, ask(sampling, n, question))

    assert await asyncio.gather(*map(one, wanted)) == [expected[i] for i in wanted]


async def test_who_leaves_changes_nothing_for_the_others(workshop, expected):
    pipeline = await workshop.load(2, exact=True, sessions=4, queue=10)
    chance = random.Random(9)

    async def leave():
        for _ in range(5):
            async with contextlib.aclosing(pipeline.ask(ask(DRAWN, 100, "Go on and on. " * 20))) as events:
                for _ in range(chance.randint(0, 5)):
                    await anext(events)

    async def one(i):
        question, sampling, n = QUESTIONS[i]
        return await answer(pipeline, ask(sampling, n, question))

    leaving = [asyncio.create_task(leave()) for _ in range(2)]
    for _ in range(2):
        assert await asyncio.gather(*map(one, (0, 2, 4))) == [expected[i] for i in (0, 2, 4)]
    await asyncio.gather(*leaving)


async def test_who_leaves_while_the_prompt_is_read_ends_nobody_else(workshop, expected):
    pipeline = await workshop.load(2, sessions=4, queue=10, exact=True)
    running = asyncio.create_task(answer(pipeline, ask(QUESTIONS[4][1], 60, QUESTIONS[4][0])))
    left = 0
    while not running.done():
        async with contextlib.aclosing(pipeline.ask(ask(GREEDY, 9, f"{left} foxes by the river. " * 60))) as events:
            await anext(events)
            await asyncio.sleep(0.02 * (left % 5))
        left += 1
    assert await running == expected[4]
    assert left
    assert await answer(pipeline, ask(GREEDY, 10, "Hello!")) == expected[5]


@pytest.mark.parametrize("exact", [False, True])
async def test_a_cache_that_is_full_makes_sessions_wait_and_loses_none(workshop, expected, exact):
    """Every question reserves half of the context window: at most two run, whatever the number of sessions."""
    pipeline = await workshop.load(2, sessions=8, queue=10, kept_tokens=0, exact=exact)
    running, most = 0, 0

    async def one():
        nonlocal running, most
        async with contextlib.aclosing(pipeline.ask(ask(GREEDY, N_CTX // 2 - 60, "Hello!"))) as events:
            async for event in events:
                if isinstance(event, Started):
                    running += 1
                    most = max(most, running)
                if isinstance(event, Text) and event.tokens and chance.random() < 0.1:
                    break
        running -= 1

    chance = random.Random(4)
    await asyncio.gather(*(one() for _ in range(6)))
    assert most == 2
    tokens, text = await answer(pipeline, ask(GREEDY, 10, "Hello!"))
    assert tokens
    if exact:  # else it depends on the cells that it gets
        assert (tokens, text) == expected[5]


async def test_tokens_come_while_a_long_prompt_is_read(workshop):
    pipeline = await workshop.load(2, sessions=2)
    order = []

    async def long():
        async for event in pipeline.ask(ask(GREEDY, 2, "The fox and the dog sat by the river. " * 60)):
            order.append(("long", type(event)))

    async with contextlib.aclosing(pipeline.ask(ask(ENDLESS, 300, "Write a poem about the sea."))) as short:
        await anext(short)
        reading = asyncio.create_task(long())
        async for event in short:
            order += [("short", type(event))] * (len(event.tokens) if isinstance(event, Text) else 1)
            if reading.done():
                break
    await reading
    assert ("short", Done) not in order  # it went on all the time
    begun, ended = order.index(("long", Started)), order.index(("long", Text))
    assert order[begun:ended].count(("short", Text)) > 5


async def test_users_take_turns(workshop):
    """One user has asked once, and asks six times at once; another one, who comes later, is the next to be answered."""
    pipeline = await workshop.load(1, sessions=1, queue=6)
    order = []

    async def one(user):
        request = msgspec.structs.replace(ask(GREEDY, 4, "Hello!"), user=user)
        assert isinstance([event async for event in pipeline.ask(request)][-1], Done)
        order.append(user)

    running = pipeline.ask(msgspec.structs.replace(ask(ENDLESS, 900), user="greedy"))
    async with contextlib.aclosing(running):
        await anext(running)
        greedy = [asyncio.create_task(one("greedy")) for _ in range(6)]
        modest = asyncio.create_task(one("modest"))
        await asyncio.sleep(0)  # all have asked, on one connection, before the first one leaves
    await asyncio.gather(*greedy, modest)
    assert order[0] == "modest"


async def test_a_full_queue_is_full_for_those_who_filled_it(workshop):
    pipeline = await workshop.load(1, sessions=1, queue=1, exact=True)
    async with contextlib.aclosing(pipeline.ask(ask(ENDLESS, 900))) as running:
        await anext(running)
        waiting = asyncio.create_task(answer(pipeline, ask(GREEDY, 2)))
        await asyncio.sleep(0)  # it has asked, on the same connection
        with pytest.raises(Busy, match="2 requests are before yours"):
            await answer(pipeline, ask(GREEDY, 2))
        other = asyncio.create_task(answer(pipeline, msgspec.structs.replace(ask(GREEDY, 2), user="other")))
        await asyncio.sleep(0)
    assert await waiting == await other


async def test_in_exact_mode_an_answer_is_kept_with_its_question(workshop, smollm2_path):
    pipeline = await workshop.load(2, exact=True)
    events = [event async for event in pipeline.ask(ask(GREEDY, 40, "Tell me about rain."))]
    tokens = [token for event in events if isinstance(event, Text) for token in event.tokens]
    prompt = events[0].prompt
    resumed = msgspec.structs.replace(ask(GREEDY, 60, "Tell me about rain."))
    again = [event async for event in pipeline.ask(resumed)]
    assert again[0].reused == len(prompt) - 1  # not in whole chunks
    assert [token for event in again if isinstance(event, Text) for token in event.tokens][:40] == tokens
