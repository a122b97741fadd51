"""Pipelines of models that are no plain transformers: hybrids, windows, compressed attention, experts."""

from __future__ import annotations

import numpy as np
import pytest
from support.architectures import TINY
from support.tiny_architectures import write_tiny
from support.tiny_models import N_VOCAB
from support.tiny_pipeline import Pipeline

from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.generation import Open, Resume
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.segments import Segment

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
DRAWN = SamplingParams(temperature=1.0, seed=7)
N_CTX = 512


def ask(prompt, session=1, max_tokens=24):
    resume = Resume([token % N_VOCAB for token in prompt], [], [])
    return Open(
        session=session, user=str(session), messages=[], raw=True, sampling=DRAWN, max_tokens=max_tokens, resume=resume
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
