"""Drafts: what is tried, how much of it, and that it changes no text and no distribution."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import signal
import threading
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.local_nodes import nodes, question
from support.losses import loaded_to_pause, once, said
from support.smollm2 import CHUNK, N_CTX, one_process
from support.tiny_models import write_model
from support.whole_stage import whole
from support.workshop import GREEDY, answer, ask, in_workers

from ainet.api import generate as shown
from ainet.models.tensors import TensorStore
from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.generation import Done, Event, Failed, Lap, Resume, Started, Text
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.segments import Segment
from ainet.stages.protocol.spec import EXACT_UBATCH
from ainet.stages.sessions.drafts import LOOKUPS, MAX_DRAFT, PROBE, PROBE_EVERY, Drafter, LapTime, PromptLookup

#: A text that the answer repeats.
EDIT = (
    "Repeat this text word for word: The quick brown fox jumps over the lazy dog. The dog sleeps in the sun near the "
    "old stone bridge, while the fox watches the river and waits for the evening to come."
)


def test_what_followed_before_is_tried_again():
    lookup = PromptLookup()
    lookup.extend([1, 2, 3, 4, 5, 6, 1, 2, 3])
    assert lookup.draft(3) == [4, 5, 6]
    assert lookup.draft(8) == [4, 5, 6, 1, 2, 3, 4, 5]
    lookup.extend([9])
    assert lookup.draft(3) == []
    lookup.extend([1, 2, 3])
    assert lookup.draft(1) == [9]  # what followed last
    lookup.extend([8, 2, 3])
    assert lookup.draft(2) == [8, 2]  # two tokens are enough


@settings(max_examples=300)
@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 20))
def test_a_draft_continues_the_text_as_it_went_on_before(tokens, most):
    lookup = PromptLookup()
    lookup.extend(tokens)
    draft = lookup.draft(most)
    before = []
    for n in LOOKUPS:
        before = before or [i for i in range(n, len(tokens)) if tokens[i - n : i] == tokens[-n:]]
    assert bool(draft) == bool(before and most)
    if draft:
        longer = tokens[before[-1] :]
        assert draft == (longer * most)[:most]


def drafter(one, more):
    lap = LapTime()
    lap.measure(1, one)
    lap.measure(2, one + more)
    return Drafter(lap)


def test_a_draft_is_as_long_as_pays():
    far = drafter(0.060, 0.005)  # a lap through other houses
    for _ in range(20):
        far.judge(MAX_DRAFT + 1, MAX_DRAFT)
    assert far.length() == MAX_DRAFT
    for _ in range(40):
        far.judge(1, MAX_DRAFT)
    assert far.length() < 2
    near = drafter(0.010, 0.010)  # a second row costs as much as the first
    near.judge(2, 4)
    assert near.length() == 0


def test_what_does_not_pay_is_tried_seldom():
    near = drafter(0.010, 0.010)
    near.extend([1, 2, 3, 4] * 20)
    near.judge(1, 4)
    tried = 0
    for _ in range(10 * PROBE_EVERY):
        near.extend([1, 2, 3, 4])
        draft = near.draft(MAX_DRAFT)
        tried += len(draft)
        near.judge(1, len(draft))
    assert 0 < tried <= PROBE * 10 * 4 + PROBE


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("exact", [False, True])
async def test_the_text_is_that_without_drafts(workshop, smollm2_path, stages, exact):
    """With one thread a stage, a token does not depend on those that are tried with it, in either mode."""

    def always_try():
        """Have the head try tokens whatever a lap costs, which depends on what else the machine does."""
        from ainet.stages.sessions.drafts import Drafter

        Drafter.length = lambda _: 4

    chunk = EXACT_UBATCH if exact else CHUNK
    drawn, penalised = SamplingParams(temperature=0.8, seed=4), SamplingParams(temperature=0, repeat_penalty=1.1)
    expected = {one: one_process(smollm2_path, EDIT, one, 80, chunk=chunk) for one in (GREEDY, drawn, penalised)}
    pipeline = await workshop.load(stages, exact=exact, speculate=True)
    await in_workers(workshop.service, pipeline, always_try)
    for sampling, text in expected.items():
        before = (await pipeline.figures())[-1].decodes
        assert await answer(pipeline, ask(sampling, 80, EDIT)) == text
        if sampling == GREEDY:
            assert (await pipeline.figures())[-1].decodes - before < 60  # fewer laps than tokens


async def test_sessions_that_share_the_stages_are_not_disturbed(workshop, smollm2_path):
    expected = one_process(smollm2_path, EDIT, GREEDY, 60, chunk=EXACT_UBATCH)
    pipeline = await workshop.load(2, exact=True, speculate=True, sessions=3)

    async def one(delay):
        await asyncio.sleep(delay)
        return await answer(pipeline, ask(GREEDY, 60, EDIT))

    assert await asyncio.gather(*map(one, (0, 0.3, 0.35, 0.9, 1.3))) == [expected] * 5


async def test_a_stop_string_within_a_draft_ends_the_answer_there(workshop, smollm2_path):
    tokens, whole = one_process(smollm2_path, EDIT, GREEDY, 60)
    pipeline = await workshop.load(2, speculate=True)
    stop = whole[len(whole) // 2 :][:9]
    got, text = await answer(pipeline, msgspec.structs.replace(ask(GREEDY, 60, EDIT), stop=[stop]))
    assert text == whole[: whole.index(stop)]
    assert got == tokens[: len(got)]


@contextlib.contextmanager
def running(stage):
    """Let a stage work; yields a function that answers a request: (prompt, tokens, laps)."""
    stage.start(None, None)

    def run(request):
        events: queue.Queue[Event] = queue.Queue()
        stage.inbox.put(lambda: stage._head.open(request, events.put))
        prompt, tokens, laps = [], [], []
        while True:
            match events.get(timeout=60):
                case Started(prompt=prompt):
                    pass
                case Text() as text:
                    tokens += text.tokens
                    laps += text.laps
                case Done():
                    return prompt, tokens, laps
                case other:
                    raise AssertionError(other)

    try:
        yield run
    finally:
        stage.stop()


def shapes(stage):
    """Return a list to which the shape of every batch will be added."""
    found: list[tuple[Segment, ...]] = []
    decode = stage.llama.decode

    def recorded(rows, segments):
        found.append(tuple((segment.position, segment.rows) for segment in segments))
        return decode(rows, segments)

    stage.llama.decode = recorded
    return found


def test_what_is_lost_is_computed_again_in_the_same_shapes(smollm2_store, smollm2_manifest, monkeypatch):
    """With two threads a stage, the text depends on them."""
    monkeypatch.setattr(Drafter, "length", lambda _: 4)
    with running(whole(smollm2_store, smollm2_manifest, threads=2, speculate=True)) as run:
        prompt, tokens, laps = run(ask(GREEDY, 80, EDIT))
    assert len(laps) > 3
    assert any(lap.drawn < lap.rows for lap in laps)
    stage = whole(smollm2_store, smollm2_manifest, threads=2)
    computed = shapes(stage)
    with running(stage) as run:
        for i in range(0, len(laps), 3):
            known, cut = laps[: i + 1], laps[i].index + laps[i].drawn + 1
            computed.clear()
            request = msgspec.structs.replace(
                ask(GREEDY, cut + 1, EDIT), resume=Resume(prompt, tokens[:cut], known), messages=[]
            )
            assert run(request)[1] == tokens[cut : cut + 1]
            single, first = dict.fromkeys(range(cut), 1), len(prompt)
            for lap in known:
                single |= {lap.index: lap.rows} | dict.fromkeys(range(lap.index + 1, lap.index + lap.drawn), 0)
            expected = [((first + i, rows),) for i, rows in single.items() if rows]
            assert computed[-len(expected) :] == expected


@pytest.mark.parametrize("resume", [[Lap(0, 2, 3)], [Lap(1, 99, 1)], [Lap(3, 2, 2)], [Lap(2, 2, 1), Lap(2, 2, 1)]])
def test_laps_that_cannot_have_been_are_refused(smollm2_store, smollm2_manifest, resume):
    events: list[Event] = []
    stage = whole(smollm2_store, smollm2_manifest)
    with running(stage):
        request = msgspec.structs.replace(ask(GREEDY, 9), resume=Resume([5, 6], [7, 8, 9, 10], resume))
        done = threading.Event()
        stage.inbox.put(lambda: (stage._head.open(request, events.append), done.set()))
        assert done.wait(10)
    assert isinstance(events[0], Failed)
    assert "An answer cannot go on" in str(events[0].error)


@pytest.fixture
def tiny(tmp_path):
    """A model with 264 tokens: (store, manifest, path)."""
    path = write_model(tmp_path / "tiny.gguf", "llama", 2)
    with TensorStore(tmp_path / "store") as store:
        yield store, store.register(path), path


def test_what_is_drawn_with_drafts_has_the_distribution_of_the_model(tiny, monkeypatch):
    """Three tokens of three candidates each, 2,000 times, against the probabilities of the model: chi-square."""
    store, manifest, path = tiny
    sampling = SamplingParams(temperature=3.0, top_k=3, top_p=1, min_p=0)
    prompt = [1, *b"abcab"]
    expected = {}
    with Llama(path, hidden_out=False, n_ctx=64) as llama:

        def likely(tokens):
            llama.clear()
            llama.decode(np.array(tokens, np.int32), [Segment(0, 0, len(tokens), 1)])
            best = np.argsort(-llama.logits())[:3]
            weights = np.exp(llama.logits()[best] / sampling.temperature)
            return zip(best.tolist(), (weights / weights.sum()).tolist(), strict=True)

        for a, p in likely(prompt):
            for b, q in likely([*prompt, a]):
                for c, r in likely([*prompt, a, b]):
                    expected[a, b, c] = p * q * r
    assert sum(expected.values()) == pytest.approx(1)
    draft = list(max(expected, key=lambda tokens: expected[tokens]))
    tried = []

    def always(_drafter, most):
        tried.append(min(most, 2))
        return draft[1 : 1 + min(most, 2)]

    monkeypatch.setattr(Drafter, "draft", always)
    n, counts = 2000, Counter()
    with running(whole(store, manifest, n_ctx=64, speculate=True)) as run:
        for seed in range(n):
            drawing = msgspec.structs.replace(sampling, seed=seed)
            resume = Resume(prompt, [], [])
            request = msgspec.structs.replace(ask(drawing, 4), resume=resume, messages=[])
            counts[tuple(run(request)[1][:3])] += 1
    assert max(tried) == 2
    assert set(counts) <= set(expected)
    squares = sum((counts[tokens] - n * p) ** 2 / (n * p) for tokens, p in expected.items())
    assert squares < 54.1  # 26 degrees of freedom: exceeded once in a thousand


async def test_an_answer_with_drafts_outlives_a_stage(tmp_path, smollm2_path):
    settings = {"desk": {"context_window": N_CTX, "chunk": CHUNK, "threads": 1}}
    expected = one_process(smollm2_path, EDIT, GREEDY, 80)
    async with nodes(tmp_path, **settings) as found:
        for victim in (0, 1):
            await loaded_to_pause(found["desk"], 8, stages=2)
            hurt, placement, n, events = once(victim, 8, signal.SIGKILL), [], 0, []
            asked = question(EDIT, max_tokens=80, stages=2, temperature=0.0)
            async with contextlib.aclosing(found["desk"].generate(asked)) as answering:
                async for event in answering:
                    events.append(event)
                    if isinstance(event, shown.Start):
                        placement = event.placement
                    elif isinstance(event, shown.Text):
                        n += len(event.tokens)
                        hurt(placement, n)
            assert said(events) == (events[-1].tokens, events[-1].text) == expected
            assert any(
                "goes on where it stopped" in event.text for event in events if isinstance(event, shown.Progress)
            )
