"""What the first stage computes next: everything once and in order, and nobody waits for somebody else's prompt."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.effort import examples

from ainet.stages.protocol.segments import SEGMENT_BYTES, Segment, pack, unpack
from ainet.stages.sessions.composer import SHARED_ROWS, Composer

#: Rows of running answers with logits for which there is room.
OUTPUTS = 16


def tokens(n, first=0):
    return np.arange(first, first + n, dtype=np.int32)


def shapes(composer):
    return [(segment.slot, segment.rows, segment.outputs) for segment in composer.compose().segments]


@given(st.lists(st.builds(Segment, *[st.integers(0, limit) for limit in (65535, 2**32 - 1, 2**32 - 1, 65535)])))
def test_segments_arrive_as_they_were_sent(segments):
    data = pack(segments)
    assert len(data) == SEGMENT_BYTES * len(segments)
    assert unpack(memoryview(data)) == segments


def test_a_prompt_alone_is_cut_into_whole_chunks():
    composer = Composer(32, 2, OUTPUTS)
    composer.prompt(0, 64, tokens(70), logits=True)
    batches = []
    while composer:
        batches.append(composer.compose())
    assert [batch.segments for batch in batches] == [
        [Segment(0, 64, 32, 0)],
        [Segment(0, 96, 32, 0)],
        [Segment(0, 128, 6, 1)],
    ]
    assert np.concatenate([batch.tokens for batch in batches]).tolist() == list(range(70))


def test_what_was_generated_before_is_computed_after_the_prompt_one_by_one():
    composer = Composer(32, 2, OUTPUTS)
    composer.prompt(0, 0, tokens(40), logits=False)
    composer.prompt(0, 40, tokens(3), step=1, logits=True)
    found = []
    while composer:
        found += composer.compose().segments
    assert [(one.position, one.rows, one.outputs) for one in found] == [
        (0, 32, 0),
        (32, 8, 0),
        (40, 1, 0),
        (41, 1, 0),
        (42, 1, 1),
    ]


def test_four_answers_keep_two_stages_busy():
    composer = Composer(32, 2, OUTPUTS)
    for slot in range(4):
        composer.tokens(slot, 10, tokens(1))
    assert shapes(composer) == [(0, 1, 1), (1, 1, 1)]
    assert shapes(composer) == [(2, 1, 1), (3, 1, 1)]
    assert not composer
    one = Composer(32, 1, OUTPUTS)
    for slot in range(4):
        one.tokens(slot, 10, tokens(1))
    assert shapes(one) == [(0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1)]


def test_a_long_prompt_rides_along_in_small_chunks_and_prompts_take_turns():
    composer = Composer(32, 1, OUTPUTS)
    composer.tokens(7, 10, tokens(1))
    composer.prompt(0, 0, tokens(100), logits=True)
    composer.prompt(1, 0, tokens(5), logits=True)
    assert shapes(composer) == [(7, 1, 1), (0, SHARED_ROWS, 0)]
    composer.tokens(7, 11, tokens(1))
    assert shapes(composer) == [(7, 1, 1), (1, 5, 1)]  # the short one does not wait for the long one
    composer.release(7)
    composer.release(1)
    assert shapes(composer) == [(0, 32, 0)]


def test_where_states_want_equal_rows_a_prompt_goes_alone():
    composer = Composer(32, 1, OUTPUTS, equal_rows=True)
    composer.prompt(0, 0, tokens(40), logits=True)
    for slot in (6, 7):
        composer.tokens(slot, 10, tokens(1))
    assert shapes(composer) == [(6, 1, 1), (7, 1, 1)]
    assert shapes(composer) == [(0, SHARED_ROWS, 0)]
    composer.tokens(6, 11, tokens(1))
    composer.tokens(7, 11, tokens(3))
    assert shapes(composer) == [(6, 1, 1)]
    # Nor does a prompt wait until the answers have ended.
    assert shapes(composer) == [(0, SHARED_ROWS, 0)]
    assert shapes(composer) == [(7, 3, 3)]


def test_there_are_never_more_logits_than_there_is_room_for():
    composer = Composer(64, 1, OUTPUTS)
    for slot, n in ((0, OUTPUTS), (1, 8), (2, 7), (3, 2)):
        composer.tokens(slot, 0, tokens(n))
    composer.prompt(9, 0, tokens(60), logits=True)
    composer.prompt(8, 0, tokens(5), logits=True)
    assert shapes(composer) == [(0, OUTPUTS, OUTPUTS), (9, SHARED_ROWS, 0)]
    assert shapes(composer) == [(1, 8, 8), (2, 7, 7), (8, 5, 1)]
    assert shapes(composer) == [(3, 2, 2), (9, SHARED_ROWS, 0)]


@settings(max_examples=examples(300), deadline=None)
@given(
    n_ubatch=st.integers(1, 40),
    n_stages=st.integers(1, 4),
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 90), st.integers(0, 3)), max_size=30),
    released=st.sets(st.integers(0, 5)),
    equal_rows=st.booleans(),
)
def test_every_token_is_computed_once_and_in_order(n_ubatch, n_stages, steps, released, equal_rows):
    composer = Composer(n_ubatch, n_stages, OUTPUTS, equal_rows=equal_rows)
    given_tokens: dict[int, list[int]] = {}
    answering: set[int] = set()
    for slot, n, step in steps:
        if slot in answering:
            continue
        known = given_tokens.setdefault(slot, [])
        if step == 3 and n <= min(n_ubatch, OUTPUTS):
            answering.add(slot)
            if known:
                continue  # its tokens come when the prompt is through
            composer.tokens(slot, 0, tokens(n))
        else:
            composer.prompt(slot, len(known), tokens(n, len(known)), step=step, logits=True)
        known += tokens(n, len(known)).tolist()
    for slot in released:
        composer.release(slot)
    computed: dict[int, list[int]] = {}
    while composer:
        batch = composer.compose()
        assert 0 < len(batch.tokens) == sum(segment.rows for segment in batch.segments) <= n_ubatch
        assert len({segment.slot for segment in batch.segments}) == len(batch.segments)
        assert len(batch.segments) == 1 or sum(segment.outputs for segment in batch.segments) <= OUTPUTS + 1
        assert not equal_rows or len({segment.rows for segment in batch.segments}) == 1
        begin = 0
        for segment in batch.segments:
            assert segment.position == len(computed.setdefault(segment.slot, []))
            computed[segment.slot] += batch.tokens[begin : begin + segment.rows].tolist()
            begin += segment.rows
    assert computed == {slot: known for slot, known in given_tokens.items() if known and slot not in released}


def test_prompts_of_what_is_sold_come_after_all_others():
    composer = Composer(32, 1, OUTPUTS)
    composer.prompt(0, 0, tokens(60), logits=True, is_last=True)
    composer.prompt(1, 0, tokens(60), logits=True, is_last=True)
    assert shapes(composer) == [(0, 32, 0)]
    composer.prompt(2, 0, tokens(70), logits=True)
    # In whole chunks, whoever of the others waits for tokens.
    assert [shapes(composer) for _ in range(3)] == [[(2, 32, 0)], [(2, 32, 0)], [(2, 6, 1)]]
    assert shapes(composer) == [(1, SHARED_ROWS, 0)]
    composer.release(2)
    assert shapes(composer) == [(0, 28, 1)]
    assert shapes(composer) == [(1, SHARED_ROWS, 0)]
    composer.prompt(2, 0, tokens(32), logits=True)
    assert shapes(composer) == [(2, 32, 1)]  # the slot is another session's now
