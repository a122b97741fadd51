"""The hidden states that a stage keeps: what is read again is what was sent, and no more room is taken than allowed."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from ainet.stages.protocol.segments import Segment
from ainet.stages.ring.kept_states import KeptStates

ROW = 8
LOG = logging.getLogger("kept")
SLOTS = st.integers(0, 2)


def rows(n, seed):
    return np.random.default_rng(seed).integers(0, 256, n * ROW, np.uint8).data


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


class Keeping(RuleBasedStateMachine):
    """Sessions grow, are tried further than they come, copied, restored and released; a list says what was sent."""

    copies = Bundle("copies")

    def __init__(self) -> None:
        super().__init__()
        self.kept = KeptStates(ROW, None, LOG)
        self.sent: dict[int, list[tuple[int, bytes]]] = {}
        self.copied: dict[int, list[tuple[int, bytes]]] = {}
        self.count = 0

    def end(self, slot):
        chunks = self.sent.get(slot)
        return chunks[-1][0] + len(chunks[-1][1]) // ROW if chunks else 0

    @rule(first=SLOTS, other=st.none() | SLOTS, n=st.integers(1, 5), m=st.integers(1, 5), back=st.integers(0, 4))
    def send(self, first, other, n, m, back):
        """A micro-batch of one or two sessions; the first one may go back to what was tried only."""
        parts = [(first, max(0, self.end(first) - back), n)]
        if other not in (None, first):
            parts.append((other, self.end(other), m))
        data = b""
        for slot, position, count in parts:
            self.count += 1
            part = bytes(rows(count, self.count))
            chunks = [] if position == 0 else self.sent.get(slot, [])
            self.sent[slot] = [one for one in chunks if one[0] < position] + [(position, part)]
            data += part
        self.kept.add([Segment(slot, position, count) for slot, position, count in parts], memoryview(data))

    @rule(slot=SLOTS, target=copies)
    def copy(self, slot):
        self.count += 1
        self.copied[self.count] = list(self.sent.get(slot, []))
        self.kept.copy(slot, self.count)
        return self.count

    @rule(slot=SLOTS, number=copies, n=st.integers(0, 12))
    def restore(self, slot, number, n):
        self.sent[slot] = [one for one in self.copied.get(number, []) if one[0] < n]
        self.kept.restore(slot, number, n)

    @rule(number=copies)
    def forget(self, number):
        self.copied.pop(number, None)
        self.kept.forget(number)

    @rule(slot=SLOTS)
    def release(self, slot):
        self.sent.pop(slot, None)
        self.kept.release(slot)

    @rule()
    def clear(self):
        self.sent.clear()
        self.kept.clear()

    @invariant()
    def says_what_was_sent(self):
        for slot in range(3):
            expected = self.sent.get(slot, [])
            found = [(segment.position, data) for segment, data in self.kept.read(slot, 10_000)]
            assert found == expected
            assert self.kept.known(slot) == self.end(slot)
            half = self.end(slot) // 2
            assert [segment.position for segment, _ in self.kept.read(slot, half)] == [
                position for position, _ in expected if position < half
            ]

    @invariant()
    def takes_no_more_than_it_needs_for_long(self):
        if not self.sent and not self.copied:
            assert self.kept.size == 0


TestKeeping = Keeping.TestCase
TestKeeping.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_session_whose_beginning_is_not_there_is_not_kept():
    kept = KeptStates(ROW, None, LOG)
    kept.add([Segment(0, 5, 2)], rows(2, 1))
    assert kept.known(0) == 0
    assert list(kept.read(0, 100)) == []


def test_where_there_is_no_room_a_session_is_not_kept_and_the_others_are(caplog):
    kept = KeptStates(ROW, None, LOG, most=10 * ROW)
    kept.add([Segment(0, 0, 4)], rows(4, 1))
    kept.add([Segment(1, 0, 6)], rows(6, 2))
    kept.add([Segment(1, 6, 1)], rows(1, 3))
    assert "not kept any more: they would have more than 0 MiB" in caplog.text
    assert (kept.known(0), kept.known(1), kept.size) == (4, 0, 4 * ROW)
    kept.add([Segment(1, 7, 1)], rows(1, 4))  # it goes on without
    assert kept.known(1) == 0
    kept.add([Segment(0, 4, 1), Segment(2, 0, 2)], rows(3, 5))
    assert [bytes(data) for _, data in kept.read(2, 2)] == [bytes(rows(3, 5)[ROW:])]


def test_a_full_disk_costs_only_what_was_kept(monkeypatch, caplog):
    kept = KeptStates(ROW, None, LOG)
    kept.add([Segment(0, 0, 4)], rows(4, 1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    kept.add([Segment(0, 4, 1)], rows(1, 2))
    assert "No space left on device" in caplog.text
    assert (kept.known(0), kept.size) == (0, 0)


def test_the_files_have_no_names_and_end_with_what_is_in_them(tmp_path):
    gc.collect()
    before = open_files()
    kept = KeptStates(ROW, str(tmp_path), LOG)
    kept.add([Segment(0, 0, 4)], rows(4, 1))
    assert list(tmp_path.iterdir()) == []
    assert open_files() == before + 1
    kept.copy(0, 1)
    kept.release(0)
    assert kept.size == 4 * ROW
    kept.forget(1)
    assert kept.size == 0
    assert open_files() == before


def test_a_damaged_file_is_said_to_be_one(monkeypatch):
    kept = KeptStates(ROW, None, LOG)
    kept.add([Segment(0, 0, 4)], rows(4, 1))
    monkeypatch.setattr(os, "pread", lambda *_: b"abc")
    with pytest.raises(OSError, match="damaged"):
        list(kept.read(0, 4))
