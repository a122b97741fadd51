"""Replicas: where a model fits on several devices, sessions spread over them and conversations stay where they were."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest
from support.local_nodes import ENDLESS, nodes, question
from support.smollm2 import one_process
from support.swarms import until
from support.workshop import pause

from ainet.api.generate import Done, GenerateRequest, Message, Start, Text
from ainet.api.models import unload_all
from ainet.api.swarm import peers
from ainet.executor.affinity import BLOCK, MAX_BLOCKS, Affinity
from ainet.executor.routing import Candidate
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.spec import EXACT_UBATCH
from ainet.timing import Timing

LONG = "Once upon a time there was a fox who lived at the edge of a wood. " * 12
ROOMY = {"memory": "600MB", "context_window": 4096}


#: Members may take their time to say how busy they are: the machine may be, too.
PATIENT = Timing(load_asked=60.0)


@contextlib.asynccontextmanager
async def equals(tmp_path, **settings):
    """Nodes that know the model, and that they are equally fast: measuring is disturbed by whatever else runs."""
    async with nodes(tmp_path, PATIENT, **settings) as found:
        model = (await next(iter(found.values())).provider.manifest(None)).digest
        for node in found.values():
            node.stages.speeds.note(model, 8e9)  # bytes a second
        yield found


class Answer:
    """An answer that goes on while other things happen."""

    def __init__(self, node, **options):
        self._events = node.generate(question(**options))

    async def begin(self):
        """Wait for the first text; return where it comes from."""
        return await self.until(Text) and self.where

    async def until(self, kind):
        async for event in self._events:
            if isinstance(event, Start):
                self.where = [part.node for part in event.placement]
                self.pids = [part.pid for part in event.placement]
            if isinstance(event, kind):
                return event
        raise AssertionError(kind)

    async def rest(self):
        return (await self.until(Done)).text

    async def stop(self):
        await self._events.aclose()


async def endless(node):
    answer = Answer(node, max_tokens=1200, grammar=ENDLESS)
    await answer.begin()
    return answer


@contextlib.asynccontextmanager
async def answering(node, n):
    """Keep a node busy with `n` answers that do not end by themselves."""
    running = [await endless(node) for _ in range(n)]
    try:
        yield running
    finally:
        for answer in running:
            await answer.stop()


async def replicated(node, *where):
    """Wait until the node has the model loaded on these devices, too."""
    await until(lambda: list(where) in pipelines(node), 90)


def usable(node):
    return node.provider.pipelines.usable()


def pipelines(node):
    return [[part.node for part in one.placement] for one in usable(node)]


async def test_sessions_spread_over_the_devices_that_can_hold_the_model(tmp_path):
    async with equals(tmp_path, desk=ROOMY, attic=ROOMY | {"discover_models": False}) as found:
        desk, attic = found["desk"], found["attic"]
        async with answering(desk, 1):
            assert pipelines(desk) == [["desk"]]  # one session does not need another device
            async with answering(desk, 1) as shared:
                assert shared[0].where == ["desk"]  # nobody waits for another device
                await replicated(desk, "attic")
                async with answering(desk, 2) as more:
                    assert more[0].where == ["attic"]
                    assert pipelines(desk) == [["desk"], ["attic"]]
        assert (await Answer(desk).begin()) == ["desk"]  # nobody is busy: the own device is near
        assert (await desk.call(unload_all)).unloaded == ["smollm2"]
        assert pipelines(desk) == []
        assert not any(worker.model for worker in await attic.stages.workers())


async def test_a_conversation_stays_where_its_cache_is(tmp_path):
    async with equals(tmp_path, desk=ROOMY, attic=ROOMY) as found:
        desk = found["desk"]
        async with answering(desk, 2):
            await replicated(desk, "attic")
            first = [event async for event in desk.generate(question(LONG, max_tokens=8))][-1]
            assert [part.node for part in first.placement] == ["attic"]
        turns = [Message("user", LONG), Message("assistant", first.text), Message("user", "Go on.")]
        request = GenerateRequest(messages=turns, temperature=0.0, max_tokens=4)
        second = [event async for event in desk.generate(request)][-1]
        assert [part.node for part in second.placement] == ["attic"]
        assert second.timings.reused_tokens >= first.timings.prompt_tokens // 64 * 64 > 0
        other = [event async for event in desk.generate(question("Go on.", max_tokens=4))][-1]
        assert [part.node for part in other.placement] == ["desk"]


async def test_an_answer_of_a_lost_replica_goes_on_elsewhere(tmp_path, smollm2_path):
    exact = ROOMY | {"exact": True}  # the own pipeline has cells of others, who have just left
    async with equals(tmp_path, desk=exact, attic=exact) as found:
        desk, attic = found["desk"], found["attic"]
        async with answering(desk, 2):
            await replicated(desk, "attic")
            await pause(attic.stages, usable(desk)[1], 1, seconds=10.0)  # it is not through before it is lost
            answer = Answer(desk, text="Tell me about rain.", max_tokens=60)
            assert await answer.begin() == ["attic"]
        os.kill(answer.pids[0], signal.SIGKILL)
        said = await answer.rest()
        assert answer.where == ["desk"]
    greedy = SamplingParams(temperature=0)
    assert said == one_process(smollm2_path, "Tell me about rain.", greedy, 60, chunk=EXACT_UBATCH)[1]


async def test_what_a_member_has_loaded_is_used_and_not_loaded_twice(tmp_path):
    async with equals(tmp_path, desk=ROOMY, attic=ROOMY) as found:
        desk, attic = found["desk"], found["attic"]
        await Answer(attic).rest()
        async with answering(desk, 1):
            async with asyncio.timeout(10):
                while not any(peer.pipelines for peer in await desk.call(peers)):
                    await asyncio.sleep(0.05)
            async with answering(desk, 1) as other:
                assert other[0].where == ["attic"]
                assert pipelines(desk) == [["desk"]]
                # Its owner counts this session among those of its own.
                assert usable(attic)[0].sessions == 1


async def test_no_replica_is_loaded_where_none_is_wanted_and_none_where_it_would_be_slower(tmp_path):
    async with equals(tmp_path, desk=ROOMY, attic=ROOMY) as found:
        desk, attic = found["desk"], found["attic"]
        desk.provider._config.replicas = 0
        async with answering(desk, 2) as running:
            assert {answer.where[0] for answer in running} == {"desk"}
            assert not desk.provider.router._growing
            desk.provider._config.replicas = 1
            model = usable(desk)[0].digest
            attic.stages.speeds.note(model, 1e6)  # bytes a second
            async with answering(desk, 1):
                await until(lambda: not desk.provider.router._growing)
                assert pipelines(desk) == [["desk"]]


def test_a_busy_pipeline_is_expected_to_take_longer_once_its_stages_have_enough_to_do():
    def expected(sessions, stages):
        return Candidate(None, "", 0.1, stages, sessions).expected

    assert expected(0, 1) == pytest.approx(0.1)
    assert expected(3, 1) == pytest.approx(0.4)
    assert expected(0, 2) == expected(1, 2) == pytest.approx(0.1)
    assert expected(3, 2) == pytest.approx(0.2)


def test_a_text_is_known_where_at_least_half_of_it_was_read():
    affinity = Affinity()
    text = "".join(map(str, range(2000)))
    affinity.note(text[: 4 * BLOCK], "one")
    assert affinity.find(text[: 4 * BLOCK], ["one"]) == "one"
    assert affinity.find(text[: 8 * BLOCK], ["one"]) == "one"
    assert affinity.find(text[: 9 * BLOCK], ["one"]) is None
    assert affinity.find(text[: 4 * BLOCK], ["two"]) is None
    assert affinity.find("x" + text[: 4 * BLOCK], ["one"]) is None
    affinity.note(text[: 6 * BLOCK], "two")  # it went on elsewhere
    assert affinity.find(text[: 6 * BLOCK], ["one", "two"]) == "two"
    for i in range(MAX_BLOCKS):
        affinity.note(f"{i:{BLOCK}}", "three")
    assert affinity.find(text[: 6 * BLOCK], ["one", "two", "three"]) is None
