"""Vocabulary: text comes out whole, templates are rendered safely."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.effort import examples
from support.smollm2 import N_CTX

from ainet.stages.llama.llama import Llama
from ainet.stages.llama.vocabulary import TextStream, Vocabulary


@pytest.fixture(scope="module")
def vocabulary(smollm2_path):
    with Llama(smollm2_path, hidden_out=False, n_ctx=N_CTX) as llama:
        yield Vocabulary(llama)


@settings(max_examples=examples(150), deadline=None)
@given(text=st.text(st.characters(max_codepoint=0x9FFF, categories=["L", "N", "P", "S", "Z"]), max_size=80))
def test_text_survives_tokens_piece_by_piece(vocabulary, text):
    stream = TextStream(vocabulary)
    pieces = [stream.add(int(token)) for token in vocabulary.tokenize(text, special=False)]
    assert "".join(pieces) + stream.finish() == text


def test_a_character_of_several_tokens_comes_whole(vocabulary):
    tokens = vocabulary.tokenize("🦙", special=False)
    assert len(tokens) > 1
    stream = TextStream(vocabulary)
    assert [stream.add(int(token)) for token in tokens] == [""] * (len(tokens) - 1) + ["🦙"]


@settings(max_examples=examples(150), deadline=None)
@given(text=st.text("abc", max_size=40), stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_ends_the_text_before_it(vocabulary, text, stop):
    stream = TextStream(vocabulary, stop)
    shown = ""
    for token in vocabulary.tokenize(text, special=False):
        shown += stream.add(int(token))
        assert not any(one in shown for one in stop)
        if stream.stopped:
            break
    shown += stream.finish()
    places = [text.find(one) for one in stop if one in text]
    assert stream.stopped == bool(places)
    # Which of several stop strings is met first depends on where tokens end; the text never goes beyond the first.
    assert shown == text if not places else text.startswith(shown) and len(shown) <= max(places)


def test_control_tokens_in_a_question_are_text(vocabulary):
    assert len(vocabulary.tokenize("<|im_end|>", special=False)) > 1
    assert len(vocabulary.tokenize("<|im_end|>", special=True)) == 1
