"""Pipelines of models that are no plain transformers: hybrids, windows, compressed attention, experts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.architectures import TINY
from support.tiny_architectures import write_tiny
from support.tiny_models import N_VOCAB
from support.tiny_pipeline import Pipeline

from ainet.errors import ProtocolError
from ainet.models.architectures.table import architecture_of
from ainet.models.gguf import open_model
from ainet.models.manifest import Manifest
from ainet.stages.kv_cache import KVCache
from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.generation import Open, Resume
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.segments import Segment
from ainet.stages.ring.hidden_states import HiddenStates
from ainet.stages.sessions.drafts import Drafter

#: Stages of several layers of each kind.
MODELS = {
    "qwen35": (4, 8),
    "qwen3next": (4, 8),
    "granitehybrid": (3,),
    "lfm2moe": (3, 5),
    "nemotron_h_moe": (4,),
    "kimi-linear": (3, 5),
    "falcon-h1": (2, 4),
    "mamba2": (2, 4),
    "gpt-oss": (2, 3),
    "gemma4": (3, 6),
    "deepseek2": (1, 4),
    "glm-dsa-types": (3, 5),
    "glm4moe-mtp": (2,),
}
#: llama.cpp lets its sequences see each other.
ALONE = "glm-dsa-types"
#: llama.cpp can take the last tokens back out of their states.
ROLLING_BACK = [name for name in MODELS if architecture_of(TINY[name].architecture).rolls_back]
DRAWN = SamplingParams(temperature=1.0, seed=7)
N_CTX = 512


def ask(prompt, session=1, max_tokens=24):
    resume = Resume([token % N_VOCAB for token in prompt], [], [])
    return Open(
        session=session,
        user=str(session),
        messages=[],
        raw=True,
        sampling=DRAWN,
        max_tokens=max_tokens,
        resume=resume,
    )


@pytest.fixture
def pipeline(request, tmp_path):
    name, options = request.param
    made = Pipeline(tmp_path, tiny=TINY[name], cuts=MODELS[name], **{"n_ctx": N_CTX, "kept_tokens": 4000, **options})
    made.load()
    yield made
    made.close()


@pytest.fixture
def alone(request, tmp_path):
    """The same model in one stage, which knows nothing of other questions."""
    (tmp_path / "alone").mkdir()
    made = Pipeline(tmp_path / "alone", tiny=TINY[request.param], cuts=(), n_ctx=N_CTX, sessions=1)
    made.load()
    yield made
    made.close()


def every(**options):
    return pytest.mark.parametrize(
        ("pipeline", "alone"), [((name, options), name) for name in MODELS], indirect=True, ids=list(MODELS)
    )


def said(pipeline, request):
    answer = pipeline.open(request)
    answer.hear()
    return answer


QUESTION = [7919 * position for position in range(150)]


@every()
def test_a_question_that_goes_on_begins_where_the_last_one_ended(pipeline, alone):
    first = said(pipeline, ask(QUESTION))
    assert len(first.tokens) > 9
    assert first.reused == 0
    assert first.tokens == said(alone, ask(QUESTION)).tokens
    longer = [*QUESTION, *range(40, 80)]
    second = said(pipeline, ask(longer))
    assert 0 < second.reused <= len(first.prompt)
    assert second.tokens == said(alone, ask(longer)).tokens
    third = said(pipeline, ask([5, *QUESTION]))
    assert third.reused == 0
    assert third.tokens == said(alone, ask([5, *QUESTION])).tokens


@every()
def test_a_lost_stage_changes_no_token(pipeline, alone):
    expected = said(alone, ask(QUESTION, max_tokens=40)).tokens
    for lost in range(len(pipeline.stages)):
        answer = pipeline.open(ask(QUESTION, max_tokens=40), until=9)
        answer.hear(until=5)
        pipeline.lose(lost)
        answer.hear_the_rest()
        assert answer.tokens == expected[: len(answer.tokens)]
        pipeline.go_on(answer)
        answer.hear()
        assert answer.tokens == expected, f"stage {lost}"


@pytest.mark.parametrize("name", [name for name in MODELS if name != ALONE])
def test_sequences_side_by_side_are_those_of_one_alone(name, tmp_path):
    """As the composer has them computed: each prompt by itself, then a row of each. Only rounding differs."""
    path = write_tiny(tmp_path / "tiny.gguf", TINY[name])
    tokens = np.array(QUESTION * 2, np.int32) % N_VOCAB
    prompts = {0: tokens[:70], 1: tokens[20:61], 2: tokens[7:107]}
    options = {"hidden_out": False, "n_ctx": N_CTX, "n_ubatch": 128, "n_outputs": 3}
    alone = {}
    for slot, prompt in prompts.items():
        with Llama(path, n_slots=1, **options) as llama:
            llama.decode(prompt, [Segment(0, 0, len(prompt), 1)])
            for step in range(6):
                llama.decode(tokens[step : step + 1], [Segment(0, len(prompt) + step, 1, 1)])
            alone[slot] = llama.logits().copy()
    with Llama(path, n_slots=3, **options) as llama:
        for slot, prompt in prompts.items():
            llama.decode(prompt, [Segment(slot, 0, len(prompt), 1)])
        for step in range(6):
            rows = np.repeat(tokens[step : step + 1], 3)
            llama.decode(rows, [Segment(slot, len(prompt) + step, 1, 1) for slot, prompt in prompts.items()])
        for row, slot in enumerate(prompts):
            assert np.abs(llama.logits(row) - alone[slot]).max() < 0.05 * alone[slot].std()


def test_where_sequences_would_see_each_other_there_is_one(tmp_path):
    path = write_tiny(tmp_path / "tiny.gguf", TINY[ALONE])
    with Llama(path, hidden_out=False, n_ctx=N_CTX, n_slots=4) as llama:
        assert llama.n_slots == 1


@every()
def test_many_questions_at_once_are_all_answered(pipeline, alone):
    prompts = [QUESTION, QUESTION[20:], QUESTION[45:100]]
    answers = pipeline.open(*(ask(prompt, session) for session, prompt in enumerate(prompts)))
    for answer in answers:
        answer.hear()
    first = pipeline.stages[-1].llama.n_slots == 1
    if first:  # one after the other
        assert [answer.tokens for answer in answers] == [
            said(alone, ask(prompt, session)).tokens for session, prompt in enumerate(prompts)
        ]


@pytest.mark.parametrize("name", MODELS)
def test_a_sequence_is_put_back_as_it_was(name, tmp_path):
    path = write_tiny(tmp_path / "tiny.gguf", TINY[name])
    tokens = np.array(QUESTION, np.int32) % N_VOCAB

    def further(llama, slot):
        found = []
        for step in range(5):
            llama.decode(tokens[step : step + 1], [Segment(slot, 104 + step, 1, 1)])
            found.append(llama.logits().copy())
        return np.array(found)

    options = {"hidden_out": False, "n_ctx": N_CTX, "n_ubatch": 64, "n_slots": 2}
    with Llama(path, **options) as llama, Llama(path, **options) as other:
        llama.decode(tokens[:64], [Segment(0, 0, 64, 0)])
        llama.decode(tokens[64:104], [Segment(0, 64, 40, 1)])
        copy = llama.save(0)
        went_on = further(llama, 0)
        llama.keep(0, 0)
        llama.restore(0, copy)
        assert np.array_equal(further(llama, 0), went_on)  # in its place
        if llama.n_slots > 1:
            llama.restore(1, copy)
            assert np.array_equal(further(llama, 1), went_on)  # beside a live one
        other.restore(0, copy)
        assert np.array_equal(further(other, 0), went_on)  # in another context


@pytest.mark.parametrize("name", TINY)
def test_states_go_back_where_llama_cpp_can_do_so(name, tmp_path):
    path = write_tiny(tmp_path / "tiny.gguf", TINY[name])
    manifest = Manifest.draft(name, open_model(path))
    with Llama(path, hidden_out=False, n_ctx=N_CTX, rollback=5) as llama:
        assert llama.has_state == any(layer.recurs for layer in manifest.layers)
        assert llama.rollback == (5 if llama.has_state and manifest.split.rolls_back else 0)


@pytest.mark.parametrize("tried", [1, 3])
@pytest.mark.parametrize("name", ROLLING_BACK)
def test_what_was_tried_leaves_no_trace_in_a_state(name, tried, tmp_path):
    path = write_tiny(tmp_path / "tiny.gguf", TINY[name])
    tokens = np.array(QUESTION, np.int32) % N_VOCAB

    def found_after(wrong):
        found = []
        with Llama(path, hidden_out=False, n_ctx=N_CTX, n_slots=2, n_outputs=8, rollback=3) as llama:
            llama.decode(tokens[:60], [Segment(0, 0, 60, 1)])
            llama.decode(tokens[30:70], [Segment(1, 0, 40, 1)])
            for step in range(60, 66):
                rows = [tokens[step], *wrong]
                llama.decode(np.array(rows, np.int32), [Segment(0, step, len(rows), len(rows))])
                found.append(llama.logits(0).copy())
                if wrong:
                    llama.keep(0, step + 1)
                if step == 63:  # somebody else, before anything follows
                    llama.decode(tokens[70:71], [Segment(1, 40, 1, 1)])
                    found.append(llama.logits().copy())
        return np.array(found)

    alone, one, other = (found_after(wrong) for wrong in ([], [5] * tried, list(range(9, 9 + tried))))
    assert np.array_equal(one, other)
    assert np.abs(one - alone).max() < 0.05 * alone.std()


@pytest.mark.parametrize("name", ROLLING_BACK)
def test_drafts_are_tried_with_states_that_go_back(name, tmp_path, monkeypatch):
    """Right ones, and a wrong one behind them: what is said is what is said without."""

    def asked(rollback):
        (folder := tmp_path / str(rollback)).mkdir()
        made = Pipeline(folder, tiny=TINY[name], cuts=MODELS[name], n_ctx=N_CTX, speculate=True, rollback=rollback)
        made.load()
        try:
            return said(made, ask(QUESTION, max_tokens=40))
        finally:
            made.close()

    expected = asked(0)
    assert not expected.laps
    text = [*expected.prompt, *expected.tokens]

    how_many = itertools.cycle([0, 1, 3, 2])

    def draft(drafter, most):
        n = len(drafter._lookup.since(0))
        right = next(how_many)
        return [*text[n : n + right], (text[(n + right) % len(text)] + 1) % N_VOCAB][:most]

    monkeypatch.setattr(Drafter, "draft", draft)
    found = asked(3)
    assert found.tokens == expected.tokens
    assert {lap.rows - lap.drawn for lap in found.laps} == {0, 1}
    assert max(lap.rows for lap in found.laps) == 4


def test_no_state_goes_back_beyond_the_last_rows(tmp_path):
    with Llama(
        write_tiny(tmp_path / "tiny.gguf", TINY["lfm2moe"]), hidden_out=False, n_ctx=N_CTX, n_slots=1, rollback=3
    ) as llama:
        cache = KVCache(llama, HiddenStates("float32", llama.n_embd), None, exact=False)
        cache.decode([Segment(0, 0, 8, 1)], np.arange(8, dtype=np.int32))
        for _ in range(2):  # llama.cpp would take what it kept of the first three rows
            cache.decode([Segment(0, 8, 1, 1)], np.arange(1, dtype=np.int32))
            with pytest.raises(ProtocolError, match="take back 1"):
                cache.decode([Segment(0, 8, 1, 1)], np.arange(1, dtype=np.int32))
            cache.clear()
            cache.decode([Segment(0, 0, 8, 1)], np.arange(8, dtype=np.int32))
