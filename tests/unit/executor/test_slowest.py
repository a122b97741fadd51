"""Several stages are loaded at once: what is told is how far the slowest is."""

from __future__ import annotations

from ainet.executor.slowest import Slowest
from ainet.hosting.requests import LoadProgress


def test_the_stage_that_is_least_far_is_told():
    told = []
    slowest = Slowest(told.append)
    desk, tab = slowest.of(0), slowest.of(3)
    desk(LoadProgress("desk", 1, 10))
    tab(LoadProgress("tab", 5, 10))  # that of the desk is still the one
    desk(LoadProgress("desk", 8, 10))
    slowest.done(3)
    desk(LoadProgress("desk", 9, 10))
    assert [(item.text, item.done) for item in told] == [("desk", 1), ("tab", 5), ("desk", 9)]


def test_a_stage_of_which_nothing_is_known_counts_as_the_slowest():
    told = []
    slowest = Slowest(told.append)
    slowest.of(0)(LoadProgress("desk", 9, 10))
    slowest.of(3)(LoadProgress("tab"))
    assert told[-1] == LoadProgress("tab")
