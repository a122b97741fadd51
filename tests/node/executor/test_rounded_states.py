"""Hidden states that travel rounded: fewer bytes, and the same text again when a stage was lost."""

from __future__ import annotations

import signal

import pytest
from support.local_nodes import nodes
from support.losses import SETTINGS, TOKENS, answer, outlived, said

N_EMBD = 576  # of SmolLM2


async def bytes_sent(node):
    """Return how many bytes the first stage of the only pipeline has sent to the next."""
    return (await node.provider.pipelines.usable()[0].figures())[0].bytes_sent


@pytest.mark.parametrize(("form", "value_bytes"), [("float16", 2), ("int8", 1)])
async def test_an_answer_over_rounded_states_outlives_a_stage(tmp_path, form, value_bytes):
    settings = {"desk": SETTINGS["desk"] | {"hidden_states": form, "speculate": False}}
    async with nodes(tmp_path, **settings) as found:
        desk = found["desk"]
        whole = await answer(desk, stages=3)
        before = await bytes_sent(desk)
        assert said(await answer(desk, stages=3)) == said(whole)
        row, sent = N_EMBD * value_bytes, await bytes_sent(desk) - before
        assert TOKENS * row <= sent < (TOKENS + 80) * (row + 120)
        assert said(await outlived(desk, 1, 30, signal.SIGKILL, stages=3)) == said(whole)
