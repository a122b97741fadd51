"""Pipelines over the node's own Dask workers: the text of one process, and words when a worker is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import msgspec
import psutil
import pytest
from support.smollm2 import CHUNK, N_CTX, one_process
from support.swarms import until
from support.workshop import GREEDY, LOG, OPTIONS, QUESTION, answer, ask, in_workers, pause

from ainet.api.node import Caps
from ainet.errors import AinetError, NotEnough, Refused, StageLost
from ainet.executor.pipeline import Pipeline
from ainet.placement.capacity import NodeCapacity
from ainet.placement.planner import Planner
from ainet.resources.monitor import pss
from ainet.signals import Signal
from ainet.stages.protocol.address import StageAddress
from ainet.stages.protocol.generation import Resume, Started, Text
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.timing import Timing


async def test_two_three_and_four_stages_say_what_one_process_says(workshop, smollm2_path):
    seeded = SamplingParams(temperature=1.0, seed=42)
    expected = {sampling: one_process(smollm2_path, QUESTION, sampling, 200) for sampling in (GREEDY, seeded)}
    assert len(expected[GREEDY][0]) == 200
    for n_stages in (2, 3, 4):
        pipeline = await workshop.load(n_stages)
        for sampling, whole in expected.items():
            assert await answer(pipeline, ask(sampling)) == whole, (n_stages, sampling)
        assert len({part.pid for part in pipeline.placement}) == n_stages
        await pipeline.close()


async def test_a_prompt_of_many_chunks_gives_the_same_text(workshop, smollm2_path):
    question = "Count the foxes. " + "The fox and the dog sat by the river. " * 60
    pipeline = await workshop.load(3)
    assert await answer(pipeline, ask(max_tokens=20, question=question)) == one_process(
        smollm2_path, question, GREEDY, 20
    )


async def test_only_hidden_states_travel_and_little_more(workshop):
    pipeline = await workshop.load(3)
    await answer(pipeline, ask(max_tokens=10))
    before = await pipeline.figures()
    tokens, _ = await answer(pipeline, ask(max_tokens=110))
    after = await pipeline.figures()
    await answer(pipeline, ask(max_tokens=10))
    again = await pipeline.figures()
    for i in (0, 1):
        sent = (after[i].bytes_sent - before[i].bytes_sent) - (again[i].bytes_sent - after[i].bytes_sent)
        assert sent / (len(tokens) - 10) <= 1.2 * 4 * 576


async def test_a_killed_worker_is_said_within_seconds_and_the_next_question_works(workshop):
    pipeline = await workshop.load(2)
    expected = await answer(pipeline, ask(max_tokens=8))
    for victim in (1, 0):
        events = pipeline.ask(ask(max_tokens=900))
        await anext(events)
        await anext(events)
        pid = pipeline.placement[victim].pid
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            with pytest.raises(StageLost):
                async for _ in events:
                    pass
            while pipeline.usable:
                await asyncio.sleep(0.01)
        await pipeline.close()
        pipeline = await workshop.load(2)
        assert await answer(pipeline, ask(max_tokens=8)) == expected


async def test_stages_beyond_the_cap_are_refused_with_the_numbers_and_leave_nothing(workshop):
    workshop.allocator.caps = Caps(memory=150_000_000, threads=4, disk=10**9)
    offer = NodeCapacity(node=workshop.identity.id, name="node", memory=10**9, threads=1, speed=5e9)
    plan = Planner(workshop.manifest, [offer], n_ctx=N_CTX, n_ubatch=CHUNK).plan(2)
    pipeline = Pipeline(
        plan,
        workshop.manifest,
        [],
        unforced=False,
        identity=workshop.identity,
        service=workshop.service,
        links=workshop.links,
        options=OPTIONS,
        log=LOG,
    )
    with pytest.raises(NotEnough, match=r"needs .* of memory, but only .* of this device's cap of 150 MB"):
        await pipeline.load(lambda _: None)
    assert workshop.allocator.reserved.memory == 0
    assert workshop.service.stages() == []


def listening(pid: int) -> int:
    return sum(one.status == psutil.CONN_LISTEN for one in psutil.Process(pid).net_connections("inet"))


async def test_an_interrupted_load_leaves_nothing(workshop):
    (worker,) = workshop.service.engine.workers()
    ports, memory = listening(worker.pid), pss(worker.pid)
    for delay in (0.0, 0.02, 0.1, 0.2, 0.4):
        begun = asyncio.Event()
        loading = asyncio.create_task(
            workshop.load(1, lambda item, begun=begun: "loading" in item.text and begun.set())
        )
        await begun.wait()
        await asyncio.sleep(delay)
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await loading).close()  # it was quicker than the interrupt
        assert workshop.service.stages() == []
        assert workshop.allocator.reserved.memory == 0
    assert listening(worker.pid) == ports
    assert pss(worker.pid) < memory + 60e6  # not one model of 97 MB with its cache
    pipeline = await workshop.load(1)
    assert len((await answer(pipeline, ask(max_tokens=4)))[0]) == 4


async def test_a_worker_that_is_lost_before_it_holds_anything_is_said(workshop, monkeypatch):
    engine = workshop.service.engine
    actor = engine.actor

    def killed_first(*arguments, address):
        os.kill(next(worker.pid for worker in engine.workers() if worker.address == address), signal.SIGKILL)
        return actor(*arguments, address=address)

    monkeypatch.setattr(engine, "actor", killed_first)
    async with asyncio.timeout(20):
        with pytest.raises(StageLost, match=r"was lost\. Ask again"):
            await workshop.load(1)
    monkeypatch.undo()
    assert workshop.allocator.reserved.memory == 0
    pipeline = await workshop.load(1)
    assert len((await answer(pipeline, ask(max_tokens=4)))[0]) == 4


async def test_a_stage_ends_also_when_dask_knew_first_that_its_worker_is_lost(workshop):
    pipeline = await workshop.load(2)
    service = workshop.service
    service.engine._worker_lost = Signal("nobody tells the service", LOG)
    for park in (True, False):
        stage = service.stages()[0]
        os.kill(stage.worker.pid, signal.SIGKILL)
        await until(lambda stage=stage: stage.actor._future.status not in ("finished", "pending"), 20)
        with pytest.raises(StageLost, match="was lost"):
            await service.figures(pipeline.name)
        await service.close(pipeline.name, park=park)
        assert service.stages() == []
        await service.parking.clear()
        assert workshop.allocator.reserved.memory == 0
        pipeline = await workshop.load(2)


@pytest.mark.parametrize("timing", [Timing(worker_idle=0.1)])
async def test_workers_that_nobody_needs_end_and_one_stays_warm(workshop):
    pipeline = await workshop.load(3)
    engine = workshop.service.engine
    pids = [worker.pid for worker in engine.workers()]
    await pipeline.close()
    await until(lambda: len(engine.workers()) == 1 and sum(map(psutil.pid_exists, pids)) == 1, 20)


async def test_models_of_a_broken_pipeline_are_kept_for_the_one_in_its_place(workshop, smollm2_path):
    allocator, service = workshop.allocator, workshop.service

    def pids(pipeline):
        return [part.pid for part in pipeline.placement]

    expected = one_process(smollm2_path, QUESTION, GREEDY, 12)
    first = await workshop.load(2)
    assert await answer(first, ask(max_tokens=12)) == expected
    await first.close(park=True)
    assert service.parking.memory.host == allocator.reserved.memory > 97e6
    second = await workshop.load(2)
    assert pids(second) == pids(first)
    assert service.parking.memory.host == 0
    assert await answer(second, ask(max_tokens=12)) == expected
    await second.close(park=True)
    os.kill(pids(second)[0], signal.SIGKILL)  # what is kept may be lost, too
    await until(lambda: len(service.parking.stages) == 1, 20)
    third = await workshop.load(2)
    assert pids(third)[1] == pids(second)[1]
    assert await answer(third, ask(max_tokens=12)) == expected
    await third.close(park=True)
    with allocator.reserve("something else", allocator.free.memory - 60_000_000):
        fourth = await workshop.load(3)  # it gives up what is kept
        assert service.parking.memory.host == 0
        await fourth.close()


@pytest.mark.parametrize("timing", [Timing(park=0.1)])
async def test_models_for_which_nobody_comes_back_are_unloaded(workshop):
    service, allocator = workshop.service, workshop.allocator
    await (await workshop.load(1)).close(park=True)
    await until(lambda: not allocator.reserved.memory, 20)
    assert not any(worker.model for worker in await service.workers())


@pytest.mark.parametrize("stages", [1, 2])
async def test_a_session_goes_on_when_only_its_connection_was_lost(workshop, smollm2_path, stages):
    expected = one_process(smollm2_path, QUESTION, GREEDY, 60)
    first = await workshop.load(stages, speculate=False)

    def wait_for_who_has_left():
        import dataclasses

        import ainet.stages.session_server as server

        server.TIMING = dataclasses.replace(server.TIMING, session_left=600.0)

    # The stages neither come to the end of the answer nor give it up before they are put aside.
    await pause(workshop.service, first, 10, seconds=8.0)
    await in_workers(workshop.service, first, wait_for_who_has_left)
    request, tokens, prompt, key = ask(max_tokens=60), [], [], 0
    try:
        async for event in first.ask(request):
            if isinstance(event, Started):
                prompt, key = event.prompt, event.key
            elif isinstance(event, Text):
                tokens += event.tokens
                if len(tokens) >= 10:
                    first.cut()
        pytest.fail("the answer came to its end")
    except StageLost:
        said = len(tokens)
    await first.close(park=True)
    second = await workshop.load(stages, speculate=False)
    resume = Resume(prompt, list(tokens), [], key)
    async for event in second.ask(msgspec.structs.replace(request, messages=[], resume=resume)):
        if isinstance(event, Started):
            assert event.key == key
        elif isinstance(event, Text):
            tokens += event.tokens
    assert tokens == expected[0]
    assert max(figures.decodes for figures in await second.figures()) <= 60 - said + 2


async def test_whoever_stops_waiting_while_models_are_put_aside_leaves_nothing(workshop):
    pipeline = await workshop.load(2)
    closing = asyncio.create_task(workshop.service.close(pipeline.name, park=True))
    await asyncio.sleep(0)  # it has begun
    await asyncio.sleep(0)
    closing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await closing
    await until(lambda: not workshop.allocator.reserved.memory, 20)
    pipeline = await workshop.load(2)
    await pipeline.close(park=True)
    giving_up = asyncio.create_task(workshop.service.parking.clear())
    await asyncio.sleep(0)
    giving_up.cancel()
    await until(lambda: not workshop.allocator.reserved.memory, 20)
    assert not workshop.service.stages()
    pipeline = await workshop.load(2)
    assert len((await answer(pipeline, ask(max_tokens=4)))[0]) == 4


async def test_a_stage_is_linked_to_members_only_and_once(workshop):
    pipeline = await workshop.load(2)
    me = workshop.identity.id
    following = (await pipeline.figures())[1]
    address = StageAddress(me, "127.0.0.1", 1, 0, following.pid)
    with pytest.raises(Refused, match="is no member"):
        await workshop.service.link(pipeline.name, 0, "x" * 52, address)
    with pytest.raises(AinetError):
        await workshop.service.link(pipeline.name, 0, me, address)


async def test_closing_an_answer_stops_every_stage_within_a_token(workshop):
    pipeline = await workshop.load(3)

    def note():
        """Have a last stage note how many tokens there were when it heard that it shall end an answer."""
        from ainet.stages import session_server

        session_server.noted = []

        def cancelling(stage, request):
            return lambda: (session_server.noted.append(stage.decodes), stage._head.cancel(request))

        session_server._cancelling = cancelling

    def noted():
        from ainet.stages import session_server

        return session_server.noted

    async def decodes():
        return [figure.decodes for figure in await pipeline.figures()]

    await in_workers(workshop.service, pipeline, note)
    events = pipeline.ask(ask(SamplingParams(temperature=1.0, seed=1, grammar="root ::= [a-z ] root"), max_tokens=900))
    seen = 0
    async for event in events:
        seen += isinstance(event, Text)
        if seen == 5:
            break
    await events.aclose()
    async with asyncio.timeout(60):
        while not (heard := [at for found in await in_workers(workshop.service, pipeline, noted) for at in found]):
            await asyncio.sleep(0.01)
        before, now = [], await decodes()
        while before != now:
            await asyncio.sleep(0.5)
            before, now = now, await decodes()
    [at] = heard
    assert at < 900  # it had not come to its end
    assert max(now) <= at + 1  # the token under way
    assert len((await answer(pipeline, ask(max_tokens=1)))[0]) == 1
