"""Answers whose stages are lost while they are given."""

from __future__ import annotations

import contextlib
import os

from ainet.api.generate import Progress, Start, Text
from support.local_nodes import ask, question
from support.smollm2 import CHUNK, N_CTX
from support.workshop import pause

TEXT = "Tell me a long story about a fox, a dog and a river."
SETTINGS = {"desk": {"context_window": N_CTX, "chunk": CHUNK, "threads": 1}}
TOKENS = 80


async def answer(node, *, hurt=None, **options):
    """Ask; `hurt` is called with the placement and the number of tokens whenever there are more. Returns all events."""
    events, placement, n = [], [], 0
    async with contextlib.aclosing(node.generate(question(TEXT, max_tokens=TOKENS, **options))) as running:
        async for event in running:
            events.append(event)
            if isinstance(event, Start):
                placement = event.placement
                if hurt is not None:
                    hurt(placement, n)
            elif isinstance(event, Text):
                n += len(event.tokens)
                if hurt is not None:
                    hurt(placement, n)
    return events


def said(events):
    """Return the tokens and the text as they were told piece by piece."""
    told = [event for event in events if isinstance(event, Text)]
    return [token for event in told for token in event.tokens], "".join(event.text for event in told)


def notices_of(events):
    """Return what the reader had to know."""
    return [event.text for event in events if isinstance(event, Progress) and event.notice]


def once(victim, at, how):
    """Return what hurts the stage with the number `victim` when there are `at` tokens."""
    hurt = []

    def act(placement, n):
        if not hurt and n >= at:
            hurt.append(placement[victim].pid)
            os.kill(placement[victim].pid, how)

    return act


async def loaded_to_pause(node, *at, stages=None):
    """Load the model, so that each time an answer has this many tokens there is time to do something to it."""
    await ask(node, stages=stages)
    [pipeline] = node.provider.pipelines.usable()
    await pause(node.stages, pipeline, *at)


async def outlived(node, victim, at, how, **options):
    """Ask, and hurt the stage with the number `victim` at `at` tokens, while more are to come. Returns all events."""
    await loaded_to_pause(node, at, stages=options.get("stages"))
    events = await answer(node, hurt=once(victim, at, how), **options)
    notices = notices_of(events)
    assert any("goes on where it stopped" in text or not at for text in notices)
    return events
