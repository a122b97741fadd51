"""From the question to the first word there is always something to see, and how much is left."""

from __future__ import annotations

from itertools import groupby

from support.local_nodes import nodes, question

from ainet.api.generate import Done, Progress, Start, Text

MEMORY = {"memory": "190MB"}


async def events_of(node, text, **options):
    return [event async for event in node.generate(question(text, **options))]


def runs(events):
    """Return the progress with bars, by what is counted, in order."""
    counted = [
        (event.text, event.unit, event.done, event.total)
        for event in events
        if isinstance(event, Progress) and event.total
    ]
    return {key: [(done, total) for *_, done, total in group] for key, group in groupby(counted, lambda one: one[:2])}


async def test_bytes_layers_and_tokens_are_counted_until_the_first_word(tmp_path):
    async with nodes(tmp_path, desk=MEMORY, attic={**MEMORY, "discover_models": False}) as found:
        events = await events_of(found["attic"], "word " * 200)
        assert isinstance(events[0], Progress)
        told = runs(events)
        units = [unit for _, unit in told]
        assert {"bytes", "tokens"} <= set(units)
        assert units[-1] == "tokens"
        for counts in told.values():
            assert counts == sorted(counts)
            assert all(0 <= done <= total for done, total in counts)
        read = next(counts for (_, unit), counts in told.items() if unit == "tokens")
        start = next(event for event in events if isinstance(event, Start))
        assert read[-1] == (start.prompt_tokens, start.prompt_tokens)
        assert len(read) >= start.prompt_tokens // 64
        first = next(n for n, event in enumerate(events) if isinstance(event, Text | Done))
        assert not [event for event in events[first:] if isinstance(event, Progress)]


async def test_a_member_hears_how_far_another_ones_pipeline_is(tmp_path):
    async with nodes(tmp_path, desk={}, attic={"discover_models": False}) as found:
        await events_of(found["desk"], "hi")
        events = await events_of(found["attic"], "word " * 200)
        assert any(unit == "tokens" for _, unit in runs(events))
