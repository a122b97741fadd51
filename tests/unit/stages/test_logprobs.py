"""Log probabilities: of drawn tokens, of prompts, and that nothing about an answer changes them."""

from __future__ import annotations

import queue

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support.smollm2 import CHUNK, N_CTX
from support.whole_stage import whole

from ainet.api.generate import Message
from ainet.api.logprobs import MOST_ALTERNATIVES
from ainet.errors import AinetError, UsageError
from ainet.stages.llama.llama import Llama
from ainet.stages.llama.logprobs import best_tokens
from ainet.stages.protocol.generation import Done, Failed, Open, PromptScored, Resume, Started, Text
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.segments import Segment
from ainet.stages.sessions.drafts import Drafter

TEXT = "The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the"
GREEDY = SamplingParams(temperature=0)
DRAWN = SamplingParams(temperature=1.2, seed=3, repeat_penalty=1.2)
CLOSE = 1e-5


class Scored:
    """An answer with what is told of its tokens."""

    def __init__(self) -> None:
        self.prompt: list[int] = []
        self.tokens: list[int] = []
        self.text = ""
        self.logprobs: list = []
        self.scored: list = []
        self.laps: list = []

    def add(self, event) -> bool:
        match event:
            case Started():
                self.prompt = event.prompt
            case PromptScored():
                assert event.begin == len(self.scored)
                self.scored += event.logprobs
            case Text():
                self.text += event.text
                self.tokens += event.tokens
                self.logprobs += event.logprobs
                self.laps += event.laps
            case Done():
                self.text += event.text
                return True
            case Failed():
                raise AinetError.from_dict(event.error)
        return False


@pytest.fixture(scope="module")
def stages(smollm2_store, smollm2_manifest):
    """Returns a running stage with these options."""
    made = {}

    def get(**options):
        key = tuple(sorted(options.items()))
        if key not in made:
            made[key] = whole(smollm2_store, smollm2_manifest, **({"sessions": 3, "queue": 4} | options))
            made[key].start(None, None)
        return made[key]

    yield get
    for stage in made.values():
        stage.stop()


def begin(stage, request):
    events: queue.Queue = queue.Queue()
    stage.inbox.put(lambda: stage.head.open(request, events.put))

    def finish():
        answer = Scored()
        while not answer.add(events.get(timeout=60)):
            pass
        return answer

    return finish


def ask(text=TEXT, sampling=GREEDY, max_tokens=12, **more):
    messages = [Message("user", text)] if text else []
    return Open(session=1, messages=messages, raw=True, sampling=sampling, max_tokens=max_tokens, **more)


@pytest.fixture(scope="module")
def reference(smollm2_path):
    """Returns the log probabilities after each token, float64 of shape (n, n_vocab), as softmax has them.

    So many tokens at the beginning are computed together: the activations are rounded to eight bits, so shapes matter.
    """
    with Llama(smollm2_path, hidden_out=False, n_ctx=N_CTX, n_ubatch=CHUNK, n_outputs=CHUNK, threads=1) as llama:

        def compute(tokens, together=1):
            llama.keep(0, 0)
            found = []
            while len(found) < len(tokens):
                at = len(found)
                n = min(CHUNK, together - at) if at < together else 1
                part = np.array(tokens[at : at + n], np.int32)
                llama.decode(part, [Segment(0, at, n, n)])
                found += [llama.logits(row).astype(np.float64) for row in range(n)]
            logits = np.array(found)
            return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

        yield compute


def answered(reference, answer):
    """Return the log probabilities in the places of an answer's tokens."""
    return reference(answer.prompt + answer.tokens, len(answer.prompt))[len(answer.prompt) - 1 : -1]


def check(told, tokens, expected, n):
    """Compare what is told of each token with the log probabilities in its place."""
    assert [one.token for one in told] == list(tokens)
    for one, row in zip(told, expected, strict=True):
        assert one.logprob == pytest.approx(row[one.token], abs=CLOSE)
        assert len(one.alternatives) == n
        values = [other.logprob for other in one.alternatives]
        assert values == sorted(values, reverse=True)
        assert values == pytest.approx(np.sort(row)[::-1][:n], abs=CLOSE)
        for other in one.alternatives:
            assert other.logprob == pytest.approx(row[other.token], abs=CLOSE)


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("n", [0, 1, MOST_ALTERNATIVES])
def test_they_are_those_of_the_model_however_tokens_are_drawn(stages, reference, sampling, n):
    answer = begin(stages(), ask(sampling=sampling, logprobs=n))()
    assert len(answer.tokens) == 12
    check(answer.logprobs, answer.tokens, answered(reference, answer), n)
    assert b"".join(one.piece for one in answer.logprobs).decode() == answer.text
    assert not answer.scored


def test_without_the_wish_nothing_is_told(stages):
    answer = begin(stages(), ask())()
    assert (answer.logprobs, answer.scored) == ([], [])


@pytest.mark.parametrize("exact", [False, True])
def test_tokens_that_were_tried_have_them_too(stages, reference, monkeypatch, exact):
    monkeypatch.setattr(Drafter, "length", lambda _: 4)
    answer = begin(stages(speculate=True, exact=exact), ask(max_tokens=40, logprobs=3))()
    assert any(lap.drawn > 1 for lap in answer.laps)
    check(answer.logprobs, answer.tokens, answered(reference, answer), 3)


def test_an_answer_that_goes_on_elsewhere_tells_the_same(stages):
    whole_answer = begin(stages(), ask(sampling=DRAWN, logprobs=2))()
    resume = Resume(whole_answer.prompt, whole_answer.tokens[:5])
    rest = begin(stages(), ask("", DRAWN, logprobs=2, resume=resume))()
    assert rest.tokens == whole_answer.tokens[5:]
    assert rest.logprobs == whole_answer.logprobs[5:]


def test_what_a_stop_text_cuts_off_is_not_told(stages):
    free = begin(stages(), ask(logprobs=1))()
    stop = free.text[10:14]
    answer = begin(stages(), ask(logprobs=1, stop=[stop]))()
    assert answer.text == free.text[: free.text.index(stop)]
    assert [one.token for one in answer.logprobs] == answer.tokens


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("text", ["A", TEXT, TEXT * 6], ids=["one token", "one batch", "several batches"])
def test_prompts_are_scored_token_by_token(stages, reference, text, exact):
    answer = begin(stages(exact=exact), ask(text, logprobs=2, scores_prompt=True, max_tokens=5))()
    first, *rest = answer.scored
    assert (first.token, first.logprob, first.alternatives) == (answer.prompt[0], None, [])
    expected = reference(answer.prompt + answer.tokens)
    check(rest, answer.prompt[1:], expected[: len(answer.prompt) - 1], 2)
    check(answer.logprobs, answer.tokens, expected[len(answer.prompt) - 1 : -1], 2)
    assert answer.tokens == begin(stages(exact=exact), ask(text, max_tokens=5))().tokens


def test_prompts_are_scored_beside_other_sessions(stages, reference):
    stage = stages(exact=True)
    alone = begin(stage, ask(TEXT * 3, logprobs=1, scores_prompt=True, max_tokens=3))()
    requests = [ask(TEXT * 3, logprobs=1, scores_prompt=True, max_tokens=3) for _ in range(2)]
    together = [finish() for finish in [begin(stage, one) for one in [*requests, ask(max_tokens=40)]]]
    for one in together[:2]:
        assert (one.scored, one.logprobs) == (alone.scored, alone.logprobs)


@pytest.mark.parametrize("text", [TEXT * 4, "Hi"], ids=["long", "short"])
def test_whoever_comes_while_a_prompt_is_scored_begins_beside_it(stages, text):
    """There is room for so many logits, and no more: beyond, llama.cpp ends the process."""
    stage = stages()
    first = begin(stage, ask(TEXT * 6, logprobs=1, scores_prompt=True, max_tokens=3))
    others = [begin(stage, ask(text, logprobs=1, scores_prompt=scores, max_tokens=4)) for scores in (True, False)]
    assert len(first().tokens) == 3
    for finish in others:
        assert len(finish().tokens) == 4


def test_behind_a_scored_prompt_an_end_is_a_token_too(stages, smollm2_manifest):
    """Programs that add up a text's tokens leave out the last one, which they take for the answer's."""
    bias = SamplingParams(temperature=0, logit_bias=((2, 100.0),))
    answer = begin(stages(), ask(sampling=bias, logprobs=1, scores_prompt=True, max_tokens=1))()
    assert (answer.tokens, answer.text) == ([], "")
    assert [(one.token, one.piece) for one in answer.logprobs] == [(2, b"<|im_end|>")]
    assert answer.logprobs[0].logprob < 0
    assert not begin(stages(), ask(sampling=bias, logprobs=1, max_tokens=1))().logprobs


def test_a_prompt_whose_pipeline_was_lost_is_scored_from_its_beginning(stages):
    expected = begin(stages(), ask(logprobs=1, scores_prompt=True, max_tokens=3))()
    resume = Resume(expected.prompt, [], key=7)
    again = begin(stages(), ask("", logprobs=1, scores_prompt=True, max_tokens=3, resume=resume))()
    assert (again.scored, again.tokens) == (expected.scored, expected.tokens)


def test_a_prompt_may_be_tokens(stages):
    expected = begin(stages(), ask())()
    assert begin(stages(), ask("", prompt=expected.prompt))().tokens == expected.tokens
    with pytest.raises(UsageError, match="the model's tokens are 0 to 49151") as error:
        begin(stages(), ask("", prompt=[1, 49152]))()
    assert error.value.details["param"] == "prompt"


def test_a_model_that_was_not_taught_to_does_not_fill_in(stages):
    with pytest.raises(UsageError, match="cannot fill in") as error:
        begin(stages(), ask(suffix=" the end"))()
    assert error.value.details["param"] == "suffix"


values = st.sampled_from([0.0, 1.0, 2.5, -3.0, float("-inf")])


@given(arrays.arrays(np.float32, st.integers(1, 300), elements=values), st.integers(0, 25))
def test_the_best_tokens_are_those_of_a_sort(logits, n):
    expected = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:n]
    assert best_tokens(logits, n) == expected
