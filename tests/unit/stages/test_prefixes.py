"""Which prompts are kept: found by their tokens, never more than there is room for, the longest unused first to go."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.effort import examples

from ainet.stages.sessions.prefixes import MAX_AGE, Prefixes


def tokens(*values):
    return np.array(values, np.int32)


def test_the_longest_common_beginning_is_found():
    prefixes = Prefixes(100, 1)
    first, _ = prefixes.add(tokens(1, 2, 3, 4), 4)
    second, _ = prefixes.add(tokens(1, 2, 5, 6, 7), 6)
    found, n = prefixes.find(tokens(1, 2, 5, 6, 9))
    assert (found.number, found.cells, n) == (second, 6, 4)
    found, n = prefixes.find(tokens(1, 2, 3, 4))
    assert (found.number, n) == (first, 3)  # the last token is always computed
    assert prefixes.find(tokens(8, 2, 3)) == (None, 0)


def test_only_whole_chunks_are_shared():
    prefixes = Prefixes(100, 4)
    number, _ = prefixes.add(tokens(*range(11)), 11)
    assert prefixes.find(tokens(*range(20)))[1] == 8
    assert prefixes.find(tokens(*range(8)))[1] == 4
    assert prefixes.find(tokens(0, 1, 2, 9)) == (None, 0)
    assert prefixes.add(tokens(0, 1, 2), 3) == (None, [])
    assert number is not None


def test_a_longer_one_takes_the_place_of_its_beginning():
    prefixes = Prefixes(10, 1)
    short, _ = prefixes.add(tokens(1, 2), 2)
    assert prefixes.add(tokens(1, 2), 2) == (None, [])
    long, forgotten = prefixes.add(tokens(1, 2, 3), 3)
    assert forgotten == [short]
    assert prefixes.add(tokens(1, 2), 2) == (None, [])  # it is there, as a beginning
    assert prefixes.find(tokens(1, 2, 3, 4))[0].number == long


def test_the_longest_unused_goes_first_and_the_old_by_themselves():
    now = [0.0]
    prefixes = Prefixes(6, 1, clock=lambda: now[0])
    first, _ = prefixes.add(tokens(1, 1), 2)
    second, _ = prefixes.add(tokens(2, 2), 2)
    prefixes.find(tokens(1, 1, 1))
    _, forgotten = prefixes.add(tokens(3, 3, 3), 3)
    assert forgotten == [second]
    assert prefixes.add(tokens(*range(7)), 7) == (None, [])  # it could not be kept anyway
    now[0] = MAX_AGE + 1
    assert first in prefixes.add(tokens(4), 1)[1]


def test_where_a_state_stands_for_a_prefix_it_is_used_whole_or_not_at_all():
    prefixes = Prefixes(100, 4, whole=True, overhead=30)
    short, _ = prefixes.add(tokens(1, 2, 3), 3)
    assert prefixes.find(tokens(1, 2, 3)) == (None, 0)  # the last token is always computed
    assert prefixes.find(tokens(1, 2, 4)) == (None, 0)
    assert prefixes.find(tokens(1, 2, 3, 4))[1] == 3
    assert prefixes.add(tokens(1, 2, 3), 3) == (None, [])
    other, forgotten = prefixes.add(tokens(1, 2), 2)  # a beginning has a state of its own
    assert (other is not None, forgotten, prefixes.size) == (True, [], 65)
    prefixes.find(tokens(1, 2, 3, 4))
    long, forgotten = prefixes.add(tokens(9, 9, 9), 10)
    assert forgotten == [other]
    assert prefixes.find(tokens(1, 2, 3, 4))[0].number == short
    assert long is not None
    assert prefixes.add(tokens(*range(80)), 80) == (None, [])


@settings(max_examples=examples(300), deadline=None)
@given(
    room=st.integers(0, 30),
    chunk=st.integers(1, 5),
    prompts=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=25), max_size=20),
)
def test_what_is_found_was_kept(room, chunk, prompts):
    prefixes = Prefixes(room, chunk)
    kept: dict[int, list[int]] = {}
    for prompt in prompts:
        found, n = prefixes.find(tokens(*prompt))
        assert n % chunk == 0
        assert n < len(prompt)
        if found is not None:
            assert kept[found.number][:n] == prompt[:n]
        number, forgotten = prefixes.add(tokens(*prompt), len(prompt))
        for one in forgotten:
            del kept[one]
        if number is not None:
            kept[number] = prompt
        assert prefixes.size == sum(map(len, kept.values())) <= room
