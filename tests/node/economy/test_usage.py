"""What devices did is written down where they did it, and known on all of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest
from support.local_nodes import SMALL, ask, nodes, question

from ainet.api import context, economy, swarm
from ainet.api.generate import Text
from ainet.api.node import status
from ainet.config import AinetConfig
from ainet.errors import UsageError
from ainet.node.node import Node
from ainet.timing import Timing

QUICK = Timing(context_look=0.2, context_idle=0.5, vectors_idle=0.5, stages_measured=0.1)
LAYERS = 30


async def until(condition):
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.05)


async def usage(node, **options):
    return await node.call(economy.usage, **options)


def by_pair(found):
    return {(one.worked, one.asked): one for one in found.sums}


async def test_each_device_counts_its_layers_and_both_know_of_it(tmp_path):
    async with nodes(tmp_path, QUICK, desk={}, laptop={}, phone={"memory": "60MB"}) as found:
        desk, laptop, phone = found.values()
        assert (await usage(desk)).sums == []
        first = await ask(desk, stages=2)
        second = await ask(desk, stages=2, text="And now?", max_tokens=9)
        placed = {stage.node: stage.last_layer - stage.first_layer + 1 for stage in first.placement}
        await desk.provider.pipelines.unload()
        sums = by_pair(await usage(desk))
        asked = sums["desk", "desk"]
        assert (asked.answers, asked.generated_tokens) == (2, len(first.tokens) + len(second.tokens))
        assert asked.prompt_tokens == first.timings.prompt_tokens + second.timings.prompt_tokens
        # A prompt's known beginning is not computed again; what was guessed wrong was computed, too.
        computed = sum(
            one.timings.prompt_tokens - one.timings.reused_tokens + len(one.tokens) - 1 for one in (first, second)
        )
        (rows,) = {sums[name, "desk"].layer_tokens / layers for name, layers in placed.items()}
        assert computed <= rows <= computed + 16
        assert placed.keys() == {"desk", "laptop"}
        assert all(sums[name, "desk"].seconds > 0 for name in placed)
        assert sums["laptop", "desk"].generated_tokens == 0
        assert sums["desk", "laptop"].sent > 1_500_000 * placed["laptop"]  # bytes of its layers; which is by its speed
        assert by_pair(await usage(laptop)) == sums
        models = (await usage(laptop, by="model")).sums
        assert [one.model for one in models if one.generated_tokens] == [first.model]
        (day,) = (await usage(laptop, by="day", days=1)).sums
        assert day.generated_tokens == asked.generated_tokens
        # A member that asks another one's pipeline is who it was done for.
        await ask(desk)

        async def is_known():
            return bool(phone.provider._directory.of(desk.id))

        await until(is_known)
        await ask(phone)
        served = by_pair(await usage(laptop))["desk", "phone"]
        assert (served.answers, served.generated_tokens) == (1, 4)


async def test_what_came_of_an_interrupted_answer_counts(tmp_path):
    async with nodes(tmp_path, QUICK, desk={}) as found:
        desk = found["desk"]
        n = 0
        async with contextlib.aclosing(desk.generate(question("Tell me a story.", max_tokens=400))) as events:
            async for event in events:
                n += len(event.tokens) if isinstance(event, Text) else 0
                if n >= 5:
                    break
        counted = by_pair(await usage(desk))["desk", "desk"]
        assert (counted.answers, counted.generated_tokens) == (1, n)

        async def is_measured():
            return by_pair(await usage(desk))["desk", "desk"].layer_tokens >= LAYERS * n

        await until(is_measured)


async def test_a_lost_stage_takes_only_the_last_moment_of_its_work_with_it(tmp_path):
    async with nodes(tmp_path, QUICK, desk={}) as found:
        desk = found["desk"]
        await ask(desk, max_tokens=8)

        async def is_measured():
            return by_pair(await usage(desk))["desk", "desk"].layer_tokens > 0

        await until(is_measured)
        before = by_pair(await usage(desk))["desk", "desk"].layer_tokens
        (pipeline,) = (await desk.call(status)).pipelines
        (worker,) = [one for one in desk.engine.workers() if one.pid == pipeline.placement[0].pid]
        await desk.engine.retire(worker.address)
        await ask(desk, max_tokens=8)

        async def is_more():
            return by_pair(await usage(desk))["desk", "desk"].layer_tokens > before

        await until(is_more)


async def test_a_member_that_was_away_adds_its_part_when_it_returns(tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "cellar.md").write_text("# Cellar\nThe pump hums.\n")
    async with nodes(tmp_path, QUICK, desk={}, laptop={}) as found:
        desk, laptop = found.values()
        laptop_id = laptop.id
        await laptop.stop()
        config = AinetConfig(data_dir=str(tmp_path / "laptop"), name="laptop", **SMALL, listen="")
        alone = Node(config, log=logging.getLogger("laptop"), timing=QUICK)

        async def is_away():
            return (await usage(desk)).away == ["laptop"]

        await until(is_away)
        assert ("laptop", "laptop") not in by_pair(await usage(desk))
        await alone.start()
        try:
            await alone.call(context.context_add, str(notes))

            async def is_told():
                sums = by_pair(await usage(desk))
                return ("laptop", "laptop") in sums and ("laptop", "desk") in sums

            await until(is_told)  # vectors that it made, and the document that it sent
            told = await usage(desk)
            assert told.away == []
            sums = by_pair(told)
            assert sums["laptop", "laptop"].prompt_tokens == 0  # no tokens of a question
            assert sums["laptop", "laptop"].seconds > 0
            assert sums["laptop", "desk"].sent > 0
            assert sums["desk", "laptop"].kept > 0
            assert alone.id == laptop_id
        finally:
            await alone.stop()


async def test_another_swarm_is_told_nothing_of_the_one_that_was_left(tmp_path):
    async with nodes(tmp_path, QUICK, bob={}) as strangers, nodes(tmp_path, QUICK, ana={}, eve={}) as found:
        bob, ana, eve = strangers["bob"], *found.values()
        await ask(eve)
        assert ("eve", "eve") in by_pair(await usage(ana))
        await ana.call(swarm.remove, "eve")
        await eve.call(swarm.join, (await bob.call(swarm.invite)).ticket)

        async def is_linked():
            return all(one.connected for one in await bob.call(swarm.members))

        await until(is_linked)
        for node in (bob, eve):
            assert not any(one.answers or one.generated_tokens for one in (await usage(node)).sums)


async def test_impossible_days_are_refused(tmp_path):
    async with nodes(tmp_path, QUICK, desk={}) as found:
        with pytest.raises(UsageError, match="days is 401"):
            economy.usage.make(days=401)
        assert (await usage(found["desk"], days=400)).days == 400
