"""Sampling: seeded draws, grammars and schemas, and what is refused."""

from __future__ import annotations

import contextlib
import json

import llama_cpp
import msgspec
import numpy as np
import pytest
from support.smollm2 import N_CTX, one_process

from ainet.api.generate import GenerateRequest, Message
from ainet.errors import UsageError
from ainet.executor.request import to_open
from ainet.stages.llama.llama import Llama
from ainet.stages.llama.sampling import Sampler, gumbels
from ainet.stages.llama.vocabulary import Vocabulary
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.segments import Segment

QUESTION = "Name three colours of the rainbow."


@pytest.fixture(scope="module")
def llama(smollm2_path):
    with Llama(smollm2_path, hidden_out=False, n_ctx=N_CTX) as loaded:
        yield loaded


def test_a_seed_draws_the_same_text_and_another_seed_another(smollm2_path):
    params = SamplingParams(temperature=1.0, seed=5)
    first = one_process(smollm2_path, QUESTION, params, 24)
    assert one_process(smollm2_path, QUESTION, params, 24) == first
    assert one_process(smollm2_path, QUESTION, msgspec.structs.replace(params, seed=6), 24) != first


def test_the_draw_depends_on_the_position_only(llama):
    vocabulary = Vocabulary(llama)
    llama.clear()
    llama.decode(np.arange(10, 20, dtype=np.int32), [Segment(0, 0, 10, 1)])
    sampler = Sampler(SamplingParams(temperature=5.0, top_k=0, top_p=1, min_p=0, seed=3), llama, vocabulary)
    at_7 = sampler.sample(7)
    others = {sampler.sample(position) for position in range(20, 60)}
    assert sampler.sample(7) == at_7
    assert len(others) > 30
    sampler.close()


@pytest.mark.parametrize("n", [8, 400])
def test_draws_are_distributed_as_softmax_has_it(n):
    """Pearson's chi-square over 100,000 draws, each at a position of its own."""
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 2.0, n)
    tokens = generator.permutation(49152)[:n].astype(np.int32)
    draws = 100_000
    drawn = np.array([(logits + gumbels(7, position, tokens)).argmax() for position in range(draws)])
    expected = np.exp(logits - logits.max())
    expected *= draws / expected.sum()
    counts = np.bincount(drawn, minlength=n)
    often = expected >= 5
    counts = np.append(counts[often], counts[~often].sum())
    expected = np.append(expected[often], expected[~often].sum())
    keep = expected > 0
    squares = ((counts[keep] - expected[keep]) ** 2 / expected[keep]).sum()
    freedom = keep.sum() - 1
    # The 99.9 % quantile (Wilson and Hilferty).
    assert squares < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3


def test_gumbel_numbers_of_neighbours_share_nothing():
    tokens = np.arange(5000, dtype=np.int32)
    found = [gumbels(seed, position, tokens) for seed, position in ((3, 5), (3, 6), (4, 5), (2**63 - 1, 2**40))]
    assert np.isfinite(found).all()
    for i, one in enumerate(found):
        assert abs(one.mean() - np.euler_gamma) < 0.1
        assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.06
        for other in found[i + 1 :]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.06


def test_greedy_is_the_most_probable_token(llama):
    llama.clear()
    llama.decode(np.arange(10, 30, dtype=np.int32), [Segment(0, 0, 20, 1)])
    sampler = Sampler(SamplingParams(temperature=0), llama, Vocabulary(llama))
    theirs = llama_cpp.llama_sampler_init_greedy()
    for position in range(20, 40):
        token = sampler.sample(position)
        assert token == llama_cpp.llama_sampler_sample(theirs, llama.context, -1) == int(llama.logits().argmax())
        llama.decode(np.array([token], np.int32), [Segment(0, position, 1, 1)])
    llama.logits()[[5, 400, 30]] = 1e9  # of several that are equal, the first
    assert sampler.sample(40) == llama_cpp.llama_sampler_sample(theirs, llama.context, -1) == 5
    llama_cpp.llama_sampler_free(theirs)
    sampler.close()


def test_a_repeat_penalty_changes_the_choice_after_the_token_was_seen(llama):
    llama.clear()
    llama.decode(np.arange(10, 30, dtype=np.int32), [Segment(0, 0, 20, 1)])
    best = int(llama.logits().argmax())
    sampler = Sampler(SamplingParams(temperature=0, repeat_penalty=50.0), llama, Vocabulary(llama))
    assert sampler.sample(20) == best
    assert sampler.sample(21) != best
    sampler.close()


def test_penalties_count_what_was_said_and_biases_choose(llama):
    llama.clear()
    llama.decode(np.arange(10, 30, dtype=np.int32), [Segment(0, 0, 20, 1)])
    logits = llama.logits()
    logits[:] = 0.0
    logits[[7, 8, 9]] = 10.0, 9.0, 8.5

    def drawn(n, **given):
        sampler = Sampler(SamplingParams(temperature=0, **given), llama, Vocabulary(llama))
        said = []
        for position in range(20, 20 + n):
            margin = Sampler(SamplingParams(temperature=0, **given), llama, Vocabulary(llama))
            margin.accept(said)
            said.append(sampler.sample(position))
            assert margin.margin(position, said[-1]) == 0.0  # and whoever checks finds the same
            margin.close()
        sampler.close()
        return said

    assert drawn(3) == [7, 7, 7]
    assert drawn(4, presence_penalty=1.2) == [7, 8, 7, 7]  # 10 9 8.5; 8.8 9 8.5; 8.8 7.8 8.5
    assert drawn(4, frequency_penalty=0.8) == [7, 7, 8, 9]  # 10; 9.2; 8.4 9; 8.4 8.2 8.5
    assert drawn(2, logit_bias=((7, -100.0), (9, 5.0))) == [9, 9]
    with pytest.raises(UsageError, match=r"logit_bias names 49152; the model's tokens are 0 to 49151\."):
        drawn(1, logit_bias=((49_152, 1.0),))


def test_a_json_schema_is_followed(smollm2_path):
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green", "blue"]}, "hex": {"type": "boolean"}},
        "required": ["colour", "hex"],
    }
    params = SamplingParams(temperature=0, json_schema=json.dumps(schema))
    answer = json.loads(one_process(smollm2_path, QUESTION, params, 60)[1])
    assert answer["colour"] in {"red", "green", "blue"}
    assert isinstance(answer["hex"], bool)


def test_a_grammar_is_followed(smollm2_path):
    params = SamplingParams(temperature=1.0, grammar='root ::= "yes" | "no"')
    assert one_process(smollm2_path, "Is water wet?", params, 20)[1] in {"yes", "no"}


def test_a_wrong_grammar_is_refused(llama):
    with pytest.raises(UsageError, match="not valid GBNF"):
        Sampler(SamplingParams(grammar="root ::= ("), llama, Vocabulary(llama))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; it must lie between 0 and 100"),
        ({"top_p": 2.0}, "top_p is 2.0"),
        ({"seed": -4}, "seed is -4"),
        ({"presence_penalty": 3.0}, "presence_penalty is 3.0; it must lie between -2 and 2"),
        ({"logit_bias": {5: 200.0}}, "logit_bias is 200.0"),
        ({"logit_bias": dict.fromkeys(range(2000), 1.0)}, "logit_bias names 2000 tokens; at most 1024"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"stages": 0}, "stages is 0"),
        ({"stop": ["x"] * 17}, "17 stop strings"),
        ({"grammar": "x", "json_schema": {}}, "not both"),
        ({"grammar": "x" * 70000}, "70000 bytes; at most 65536"),
        ({"messages": [Message("user", "  ")]}, "the question is empty"),
        ({"messages": []}, "the question is empty"),
    ],
)
def test_requests_that_make_no_sense_are_refused(values, words):
    with pytest.raises(UsageError, match=words):
        to_open(GenerateRequest(**{"messages": [Message("user", "hello")], **values}))


def test_biases_reach_the_sampler_in_an_order_of_their_own():
    request = GenerateRequest(messages=[Message("user", "hello")], logit_bias={9: 1.0, 3: -2.0}, seed=1)
    sampling = to_open(request)[0].sampling
    assert sampling.logit_bias == ((3, -2.0), (9, 1.0))
    assert {sampling: 1}[msgspec.msgpack.decode(msgspec.msgpack.encode(sampling), type=SamplingParams)] == 1


def test_a_request_without_seed_gets_one_that_is_told():
    request = GenerateRequest(messages=[Message("user", "hello")])
    assert to_open(request)[0].sampling.seed != to_open(request)[0].sampling.seed


@pytest.mark.parametrize("wrong", [0, -1, 2**31])
def test_an_impossible_number_of_tokens_is_refused_with_both_limits(wrong):
    request = GenerateRequest(messages=[Message("user", "Hello")], max_tokens=wrong)
    with pytest.raises(UsageError, match=rf"max_tokens is {wrong}; it must lie between 1 and 2147483647\."):
        to_open(request)


def test_tokens_that_a_grammar_refuses_end_no_process(llama):
    """llama.cpp ends the process for them; they may come from the device of another owner."""
    vocabulary = Vocabulary(llama)
    llama.clear()
    llama.decode(np.arange(10, 20, dtype=np.int32), [Segment(0, 0, 10, 1)])
    a, b = (int(vocabulary.tokenize(one, special=False)[0]) for one in ("a", "b"))
    with contextlib.closing(Sampler(SamplingParams(grammar='root ::= "a"+', seed=1), llama, vocabulary)) as sampler:
        sampler.accept([a])
        with pytest.raises(UsageError, match="does not follow the grammar"):
            sampler.accept([b])
        sampler.accept([a])
        assert sampler.margin(10, a) < 1
        assert [sampler.margin(10, one) for one in (b, a)] == [1.0, 1.0]
        assert sampler.end_margin(10) == 1.0
