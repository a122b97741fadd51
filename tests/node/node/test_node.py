"""Whole nodes: placement among members, memory that is wanted, interrupts, removals."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from support.local_nodes import ENDLESS, ask, nodes, question

from ainet.api import clients, models
from ainet.api.generate import Progress, Text
from ainet.api.models import Unloaded
from ainet.api.node import status
from ainet.api.swarm import remove
from ainet.api.verb import all_verbs
from ainet.errors import AinetError, NotEnough, NotFound, UsageError


async def placement(node, **options):
    return [part.node for part in (await ask(node, **options)).placement]


async def test_a_lone_node_works_and_gives_back_what_it_reserved(tmp_path):
    async with nodes(tmp_path, desk={}) as found:
        unanswered = {name for name, verb in all_verbs().items() if verb not in found["desk"].answers}
        assert unanswered == {"notebooks", "share", "unshare", "open_notebook"}  # those need a Jupyter server
        assert await placement(found["desk"]) == ["desk"]
        assert (await found["desk"].call(status)).node.reserved.memory > 97e6
        assert await found["desk"].call(models.unload, "smollm2") == Unloaded(["smollm2"])
        assert (await found["desk"].call(status)).node.reserved.memory == 0


async def test_a_split_under_a_cap_of_one_gigabyte_works_and_a_cap_too_small_is_refused(tmp_path):
    async with nodes(tmp_path, desk={"memory": "1GB"}) as found:
        assert await placement(found["desk"], stages=3) == ["desk"] * 3
    async with nodes(tmp_path, tiny={"memory": "90MB"}) as found:
        for stages in (None, 1, 3):
            with pytest.raises(NotEnough, match=r"smollm2 needs \d{3} MB.*free within the owners' caps: tiny 90 MB"):
                await ask(found["tiny"], stages=stages)
        assert (await found["tiny"].call(status)).node.reserved.memory == 0


async def test_a_plan_unloads_nothing_and_an_answer_unloads_what_is_idle(tmp_path):
    async with nodes(tmp_path, desk={"memory": "400MB"}) as found:
        node = found["desk"]
        await ask(node)
        assert len((await node.call(models.plan, "smollm2", 2)).stages) == 2
        with pytest.raises(NotEnough):
            await node.call(models.plan, "smollm2", 8)
        assert len((await node.call(status)).pipelines) == 1
        assert await placement(node, stages=2) == ["desk", "desk"]  # both do not fit at once
        assert [len(one.placement) for one in (await node.call(status)).pipelines] == [2]


async def test_what_is_answering_is_not_unloaded_for_another_question(tmp_path):
    async with nodes(tmp_path, desk={"memory": "400MB"}) as found:
        node = found["desk"]
        running = node.generate(question(max_tokens=400, grammar=ENDLESS))
        async for event in running:
            if isinstance(event, Text):
                break
        with pytest.raises(NotEnough):
            await ask(node, stages=2)
        assert isinstance(await anext(running), Text)
        await running.aclose()
        assert await placement(node, stages=2) == ["desk", "desk"]


async def test_an_interrupt_while_loading_leaves_nothing_and_the_next_question_works(tmp_path):
    async with nodes(tmp_path, desk={}) as found:
        node = found["desk"]
        for delay in (0.0, 0.1, 0.3):
            asking = asyncio.create_task(ask(node, stages=2))
            await asyncio.sleep(delay)
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
        await node.call(models.unload_all)
        assert (await node.call(status)).node.reserved.memory == 0
        assert await placement(node, stages=2) == ["desk", "desk"]


async def test_unloading_while_loading_is_said(tmp_path):
    async with nodes(tmp_path, desk={}) as found:
        node = found["desk"]
        events = node.generate(question(stages=3))
        await anext(events)
        assert await node.call(models.unload_all) == Unloaded(["smollm2"])
        with pytest.raises(AinetError, match="unloaded while it was being loaded"):
            async for _ in events:
                pass


async def test_two_questions_at_once_share_one_pipeline(tmp_path):
    async with nodes(tmp_path, desk={}) as found:
        one, two = await asyncio.gather(ask(found["desk"]), ask(found["desk"], text="And you?"))
        assert one.placement == two.placement
        assert len((await found["desk"].call(status)).pipelines) == 1
        # One stage is what it would be without a wish: nothing is loaded twice.
        assert (await ask(found["desk"], stages=1)).placement == one.placement


async def test_a_removed_device_is_not_asked_any_more(tmp_path):
    settings = {"desk": {"memory": "90MB"}, "phone": {"memory": "1GB", "discover_models": False}}
    async with nodes(tmp_path, **settings) as found:
        desk, phone = found["desk"], found["phone"]
        assert await placement(desk) == ["phone"]  # the model fits only there
        running = desk.generate(question(max_tokens=400, grammar=ENDLESS))
        async for event in running:
            if isinstance(event, Text):
                break
        await desk.call(remove, "phone")
        async for event in running:  # it waits for a device that could go on
            if isinstance(event, Progress) and "waiting for devices to come back: smollm2 needs" in event.text:
                break
        await running.aclose()
        with pytest.raises(NotEnough, match="caps: desk 90 MB"):
            await ask(desk)
        async with asyncio.timeout(20):
            while (await phone.call(status)).node.reserved.memory:
                await asyncio.sleep(0.05)


async def test_a_private_question_keeps_both_ends_of_the_model_here(tmp_path):
    long = {"context_window": 8192}
    settings = {"desk": {"memory": "260MB"} | long, "phone": {"memory": "1GB", "discover_models": False} | long}
    async with nodes(tmp_path, **settings) as found:
        desk, phone = found["desk"], found["phone"]
        first = await ask(desk)
        assert [part.node for part in first.placement] == ["phone"]
        planned = await desk.call(models.plan, private=True)
        private = await ask(desk, private=True)
        assert [stage.name for stage in planned.stages] == ["desk", "phone", "desk"]
        assert [part.node for part in private.placement] == ["desk", "phone", "desk"]
        assert private.tokens == first.tokens
        again = await ask(desk, private=True)
        assert again.placement == private.placement  # it is loaded once
        # Nobody else asks a pipeline that was placed for private questions.
        assert [part.node for part in (await ask(phone)).placement] == ["phone"]
        with pytest.raises(UsageError, match="no --stages with --private"):
            await ask(desk, private=True, stages=2)


async def test_an_answer_goes_on_without_a_member_that_goes_down(tmp_path):
    settings = {"desk": {}, "phone": {"discover_models": False}}
    async with nodes(tmp_path, **settings) as found:
        asked = {"stages": 2, "max_tokens": 150, "grammar": ENDLESS}
        running = found["desk"].generate(question(**asked))
        async for event in running:
            if isinstance(event, Text):
                break
        await found["phone"].stop()
        events = [event async for event in running]
        assert [part.node for part in events[-1].placement] == ["desk", "desk"]
        assert any("goes on where it stopped" in event.text for event in events if isinstance(event, Progress))
        assert events[-1].tokens == (await ask(found["desk"], **asked)).tokens


async def test_a_member_may_give_only_what_its_owner_allows(tmp_path):
    settings = {"desk": {"memory": "90MB"}, "phone": {"memory": "100MB", "discover_models": False}}
    async with nodes(tmp_path, **settings) as found:
        with pytest.raises(NotEnough, match="desk 90 MB, phone 100 MB"):
            await ask(found["desk"], stages=2)


async def test_models_of_members_are_listed_without_their_paths(tmp_path):
    async with nodes(tmp_path, desk={}, phone={"discover_models": False}) as found:
        (entry,) = await found["phone"].call(models.models)
        assert (entry.name, entry.where, entry.path) == ("smollm2", "on desk", None)
        (entry,) = await found["desk"].call(models.models)
        assert (entry.layers, entry.cuts, entry.members) == (30, "any", [])


async def test_a_model_that_nobody_has_is_said(tmp_path):
    async with nodes(tmp_path, desk={}) as found:
        with pytest.raises(NotFound, match="no-such-model"):
            await ask(found["desk"], model="no-such-model")


async def test_an_owner_who_lends_nothing_is_named(tmp_path):
    async with nodes(tmp_path, desk={}, phone={"lend": False}) as found:
        with pytest.raises(NotEnough, match=r"1 of 2 workers can be had\. phone: phone lends no workers"):
            await found["desk"].call(clients.open_client, 2)
        opened = await found["desk"].call(clients.open_client, 1)  # the owner's own device need not be asked
        assert [worker.node for worker in opened.workers] == ["desk"]
        await found["desk"].call(clients.close_client, opened.id)
