"""The best placement: as good as the best of all possibilities, tried one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.effort import examples

from ainet.placement.optimiser import MAX_DEVICES, Share, Ways, nearest, optimise


def instance(random, n, n_cuts, *, holes=0.2):
    """Return random times: each device has a speed and room for some layers; some ranges are not allowed."""
    layers = random.uniform(0.5, 2, n_cuts - 1)
    whole = np.concatenate([[0], np.cumsum(layers)])
    seconds = np.full((n, n_cuts, n_cuts), np.inf)
    for device in range(n):
        speed, room = random.uniform(0.5, 4), random.integers(1, n_cuts)
        for begin, end in itertools.combinations(range(n_cuts), 2):
            if end - begin <= room and random.random() >= holes:
                seconds[device, begin, end] = (whole[end] - whole[begin]) / speed + random.uniform(0, 0.1)
    return seconds, Ways(random.uniform(0, 2, (n, n)), random.uniform(0, 1, (n, n)))


def price(shares, seconds, ways, objective):
    times = [seconds[share.device, share.begin, share.end] for share in shares]
    ring = [share.device for share in shares]
    if objective == "throughput":
        return max(times + [max(0.0, ways.hidden[a, b] - ways.token[a, b]) for a, b in itertools.pairwise(ring)])
    between = sum(ways.hidden[a, b] for a, b in itertools.pairwise(ring))
    return sum(times) + between + (ways.token[ring[-1], ring[0]] if len(ring) > 1 else 0.0)


def brute_force(seconds, ways, objective, required):
    """Try every order of every set of devices with every cut."""
    n, n_cuts, _ = seconds.shape
    best = np.inf
    for k in range(1, min(n, n_cuts - 1) + 1):
        for ring in itertools.permutations(range(n), k):
            if required is not None and required not in ring:
                continue
            for cuts in itertools.combinations(range(1, n_cuts - 1), k - 1):
                places = zip((0, *cuts), (*cuts, n_cuts - 1), strict=True)
                shares = [Share(device, *place) for device, place in zip(ring, places, strict=True)]
                best = min(best, price(shares, seconds, ways, objective))
    return best


@settings(max_examples=examples(250), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 4),
    n_cuts=st.integers(2, 6),
    objective=st.sampled_from(["latency", "throughput"]),
    required=st.one_of(st.none(), st.integers(0, 3)),
)
def test_nothing_is_better(seed, n, n_cuts, objective, required):
    seconds, ways = instance(np.random.default_rng(seed), n, n_cuts)
    required = None if required is None or required >= n else required
    found = optimise(seconds, ways, objective, required)
    best = brute_force(seconds, ways, objective, required)
    if found is None:
        assert best == np.inf
        return
    shares, cost = found
    assert cost == pytest.approx(best)
    assert price(shares, seconds, ways, objective) == pytest.approx(cost)
    assert [share.begin for share in shares] == [0, *(share.end for share in shares[:-1])]
    assert shares[-1].end == n_cuts - 1
    assert len({share.device for share in shares}) == len(shares)


def test_a_slow_device_far_away_gets_nothing():
    seconds = np.full((3, 3, 3), np.inf)
    for device, speed in enumerate((1.0, 1.0, 0.1)):
        seconds[device, 0, 1] = seconds[device, 1, 2] = 1 / speed
    hops = np.full((3, 3), 0.01)
    hops[2] = hops[:, 2] = 1.0
    shares, cost = optimise(seconds, Ways(hops, hops))
    assert {share.device for share in shares} == {0, 1}
    assert cost == pytest.approx(2.02)
    assert optimise(seconds, Ways(hops, hops), required=2)[1] > 10


def test_the_order_is_that_of_the_shortest_way():
    """Devices in two houses: the way changes the house twice, not four times."""
    seconds = np.full((4, 5, 5), np.inf)
    for device in range(4):
        for cut in range(4):
            seconds[device, cut, cut + 1] = 1.0
    house = [0, 1, 0, 1]
    hops = np.array([[0.001 if house[a] == house[b] else 0.05 for b in range(4)] for a in range(4)])
    shares, cost = optimise(seconds, Ways(hops, hops))
    assert cost == pytest.approx(4 + 2 * 0.05 + 2 * 0.001)
    houses = [house[share.device] for share in shares]
    assert sum(a != b for a, b in itertools.pairwise(houses)) == 1


def test_of_many_sessions_a_narrow_way_keeps_all_waiting():
    seconds = np.full((3, 3, 3), np.inf)
    for device, speed in enumerate((1.0, 1.1, 0.9)):
        seconds[device, 0, 1] = seconds[device, 1, 2] = 1 / speed
    far, hidden = np.full((3, 3), 5.0), np.full((3, 3), 5.01)
    assert {share.device for share in optimise(seconds, Ways(hidden, far), "throughput")[0]} == {0, 1}
    hidden[0, 1] = hidden[1, 0] = 8.0  # as many seconds pass before the next hidden state can follow
    shares, cost = optimise(seconds, Ways(hidden, far), "throughput")
    assert 2 in {share.device for share in shares}
    assert cost == pytest.approx(1 / 0.9)


def test_twelve_devices_are_not_too_many():
    random = np.random.default_rng(0)
    seconds, ways = instance(random, MAX_DEVICES, 33, holes=0)
    near = Ways(ways.hidden / 100, ways.token / 100)
    shares, cost = optimise(seconds, near)
    assert price(shares, seconds, near, "latency") == pytest.approx(cost)


def test_of_many_devices_the_fast_and_the_roomy_are_considered():
    devices = [(float(i), 100 - i) for i in range(40)]
    chosen = nearest(devices)
    assert len(chosen) == MAX_DEVICES
    assert {0, 39} <= set(chosen)
