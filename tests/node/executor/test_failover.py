"""Answers that outlive a stage, whichever it is, however it goes, at whichever token: the same text, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal

import pytest
from support.local_nodes import nodes
from support.losses import SETTINGS, TEXT, TOKENS, answer, loaded_to_pause, once, outlived, said
from support.smollm2 import one_process

from ainet.api.generate import Progress
from ainet.api.node import status
from ainet.stages.protocol.sampling_params import SamplingParams

DRAWN = {"temperature": 0.9, "repeat_penalty": 1.2, "seed": 7}


async def test_every_stage_may_die_at_any_token(tmp_path, smollm2_path):
    chance = random.Random(5)
    expected = one_process(smollm2_path, TEXT, SamplingParams(temperature=0), TOKENS)
    async with nodes(tmp_path, **SETTINGS) as found:
        for victim in (0, 1, 2):
            at = chance.randint(1, 60)
            events = await outlived(found["desk"], victim, at, signal.SIGKILL, stages=3)
            assert said(events) == (events[-1].tokens, events[-1].text) == expected
            # The stages that are left keep their models: only that of the lost one is loaded again.
            begun = [event for event in events if isinstance(event, Progress) and not event.total]
            assert sum(": loading smollm2" in event.text for event in begun) == 1
            # And they compute nothing again of what they know.
            decodes = [stage.decodes for stage in (await found["desk"].call(status)).pipelines[0].stages]
            again = decodes.pop(victim)
            assert max(decodes) <= TOKENS - at + 2
            assert again > max(decodes)
        assert len((await found["desk"].call(status)).pipelines) == 1


async def test_a_stage_that_hangs_is_replaced(tmp_path, smollm2_path):
    expected = one_process(smollm2_path, TEXT, SamplingParams(temperature=0), TOKENS)
    async with nodes(tmp_path, **SETTINGS) as found:
        for victim, at in ((0, 20), (1, 20), (0, 0)):
            events = await outlived(found["desk"], victim, at, signal.SIGSTOP, stages=2)
            assert said(events) == expected


@pytest.mark.parametrize(
    "options", [DRAWN, {"temperature": 0.0, "grammar": "root ::= [a-zé☂ ] root"}], ids=["drawn", "grammar"]
)
async def test_draws_penalties_and_grammar_go_on(tmp_path, options):
    async with nodes(tmp_path, **SETTINGS) as found:
        whole = await answer(found["desk"], stages=2, **options)
        events = await outlived(found["desk"], 1, 30, signal.SIGKILL, stages=2, **options)
        assert said(events) == said(whole)
        assert len(said(whole)[0]) == TOKENS


async def test_what_was_held_back_is_said_once(tmp_path):
    async with nodes(tmp_path, desk=SETTINGS["desk"] | {"speculate": False}) as found:
        options = {"stages": 2, "temperature": 0.0}
        whole = said(await answer(found["desk"], **options))[1]
        options["stop"] = [whole[len(whole) // 2 :][:12]]
        cut = await answer(found["desk"], **options)
        events = await outlived(found["desk"], 0, len(said(cut)[0]) - 2, signal.SIGKILL, **options)
        assert said(events) == said(cut)
        assert events[-1].finish == cut[-1].finish == "stop"


async def test_a_whole_model_on_one_stage_is_replaced_too(tmp_path, smollm2_path):
    expected = one_process(smollm2_path, TEXT, SamplingParams(temperature=0), TOKENS)
    async with nodes(tmp_path, **SETTINGS) as found:
        for how in (signal.SIGKILL, signal.SIGSTOP):
            assert said(await outlived(found["desk"], 0, 10, how)) == expected


async def test_who_waits_for_a_pipeline_that_is_lost_again_and_again_gets_its_answer(tmp_path, smollm2_path):
    expected = one_process(smollm2_path, TEXT, SamplingParams(temperature=0), TOKENS)
    async with nodes(tmp_path, desk=SETTINGS["desk"] | {"exact": True, "sessions": 1}) as found:
        waiting: list[asyncio.Task] = []
        due = [*range(10, 80, 14)]
        await loaded_to_pause(found["desk"], *due, stages=2)

        def hurt(placement, n):
            if not waiting and n:
                waiting.append(asyncio.create_task(answer(found["desk"], stages=2)))
            elif due and n >= due[0]:
                del due[0]
                os.kill(placement[0].pid, signal.SIGKILL)

        assert said(await answer(found["desk"], stages=2, hurt=hurt)) == expected
        assert not due  # it was killed five times
        assert said(await waiting[0]) == expected


async def test_answers_that_share_their_stages_go_on_together(tmp_path, smollm2_path):
    expected = one_process(smollm2_path, TEXT, SamplingParams(temperature=0), TOKENS)
    async with nodes(tmp_path, desk=SETTINGS["desk"] | {"exact": True}) as found:
        for victim, how in ((0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)):
            hurt = once(victim, 30, how)
            await loaded_to_pause(found["desk"], 30, 35, stages=2)
            running = [answer(found["desk"], stages=2, hurt=hurt), *(answer(found["desk"], stages=2) for _ in range(3))]
            answered = await asyncio.gather(*running)
            assert [said(events) for events in answered] == [expected] * 4
            for events in answered:
                assert any("goes on where it stopped" in event.text for event in events if isinstance(event, Progress))


async def test_a_loaded_processor_is_no_reason_to_replace_anything(tmp_path, smollm2_path):
    expected = one_process(smollm2_path, TEXT, SamplingParams(temperature=0), TOKENS)
    async with nodes(tmp_path, **SETTINGS) as found:
        with busy(4 * (os.cpu_count() or 1)):
            events = await answer(found["desk"], stages=3)
        assert said(events) == expected
        assert not any("goes on where it stopped" in event.text for event in events if isinstance(event, Progress))


@contextlib.contextmanager
def busy(n):
    """Keep `n` processes computing."""
    import subprocess
    import sys

    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
