"""Log probabilities on a real node: the same on any number of stages, and where a stage is lost."""

from __future__ import annotations

import signal

from support.local_nodes import ask, nodes
from support.losses import SETTINGS, answer, outlived

from ainet.api.generate import PromptScored, Text

WISHES = {"temperature": 0.0, "logprobs": 3}


async def test_they_are_the_same_to_the_last_bit_on_any_number_of_stages(tmp_path):
    async with nodes(tmp_path, **SETTINGS) as found:
        wishes = WISHES | {"raw": True, "scores_prompt": True, "max_tokens": 6}
        text = "The quick brown fox jumps over the lazy dog. " * 4
        told = [await ask(found["desk"], text=text, stages=stages, **wishes) for stages in (1, 2, 3)]
        assert len({len(one.placement) for one in told}) == 3
        for one in told:
            assert [part.token for part in one.logprobs] == one.tokens
            assert b"".join(part.piece for part in one.prompt_logprobs).decode() == text
            assert (one.prompt_logprobs, one.logprobs) == (told[0].prompt_logprobs, told[0].logprobs)


async def test_an_answer_whose_stage_is_lost_tells_each_token_once(tmp_path):
    async with nodes(tmp_path, **SETTINGS) as found:
        whole = (await answer(found["desk"], stages=2, **WISHES))[-1]
        for victim in (0, 1):
            *events, done = await outlived(found["desk"], victim, 20, signal.SIGKILL, stages=2, **WISHES)
            assert done.logprobs == whole.logprobs
            assert [one for event in events if isinstance(event, Text) for one in event.logprobs] == done.logprobs


async def test_a_prompt_whose_stage_is_lost_while_it_is_scored_is_scored_anew(tmp_path):
    async with nodes(tmp_path, **SETTINGS) as found:
        wishes = WISHES | {"scores_prompt": True}
        whole = (await answer(found["desk"], stages=2, **wishes))[-1]
        *events, done = await outlived(found["desk"], 1, 0, signal.SIGKILL, stages=2, **wishes)
        assert (done.prompt_logprobs, done.logprobs) == (whole.prompt_logprobs, whole.logprobs)
        scored: list = []
        for event in events:
            if isinstance(event, PromptScored):
                scored[event.begin :] = event.logprobs
        assert scored == done.prompt_logprobs
