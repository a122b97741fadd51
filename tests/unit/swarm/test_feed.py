"""Signed logs: whatever happens to entries on their way, a log says what its author said, up to some moment."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from support.authors import AUTHOR, KEY, Author, plain

from ainet.errors import Refused
from ainet.identity.keys import public_key_of
from ainet.swarm.feed import MAX_BODY, MAX_STATE, Body, Entry, Feed, make_entry


def deliver(log, entry):
    body = entry.open()
    if log.accepts(body):
        log.add(entry, body)


HISTORY = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 9)), min_size=1, max_size=3),
        st.booleans(),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=12,
)


def write(history):
    author = Author()
    for changes, snapshot, restored in history:
        author.say(changes, snapshot=snapshot, epoch=author.epoch + 1 if restored == 0 and author.entries else None)
    return author


@given(HISTORY, st.lists(st.integers(0, 11), max_size=40))
def test_lost_doubled_and_reordered_entries_never_make_up_a_state(history, arrivals):
    author, log = write(history), Feed()
    for i in arrivals:
        deliver(log, author.entries[i % len(author.entries)])
        assert log.place is None or plain(log) in author.states


@given(HISTORY, st.lists(st.integers(0, 11), max_size=20))
def test_who_asks_for_the_rest_gets_up_to_date(history, arrivals):
    author, log = write(history), Feed()
    for i in arrivals:
        deliver(log, author.entries[i % len(author.entries)])
    for entry in author.log.since(log.place):
        deliver(log, entry)
    assert plain(log) == author.states[-1]
    assert not author.log.since(log.place)


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_changed_entry_is_refused(position, change):
    entry = Author().say({"memory": 1000, "models": ["a", "b"]})
    body = bytearray(entry.body)
    body[position % len(body)] ^= change
    with pytest.raises(Refused):
        Entry(bytes(body), entry.signature).open()


@given(st.binary(max_size=200))
def test_random_bytes_are_no_entry(body):
    with pytest.raises(Refused):
        Entry(body, bytes(64)).open()


def test_nobody_writes_in_anothers_name():
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    entry = make_entry(Body(AUTHOR, "capabilities", 0, 0, b"", 1.0, {}), other.sign)
    with pytest.raises(Refused, match="not signed by its author"):
        entry.open()


def test_a_node_id_stands_for_one_key_and_a_key_for_one_id():
    assert public_key_of(AUTHOR).public_bytes_raw() == KEY.public_key().public_bytes_raw()
    last = AUTHOR[-1]
    twin = next(c for c in "abcdefghijklmnopqrstuvwxyz234567" if c != last)
    for wrong in (AUTHOR[:-1] + twin, "a" * 51, "!" * 52):
        with pytest.raises(Refused, match="no node id"):
            public_key_of(wrong)


def test_there_are_limits():
    with pytest.raises(Refused, match="too large for a log"):
        Author().say({"a": "x" * MAX_BODY})
    author = Author()
    for i in range(MAX_STATE // 40_000):
        author.say({f"key{i}": "x" * 40_000})
    with pytest.raises(Refused, match="too large"):
        author.say({"last": "x" * 40_000})
