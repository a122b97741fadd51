"""What margins say of an answer, and of whom answers are checked."""

from __future__ import annotations

import logging
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainet.economy.checking import Checking, Sample
from ainet.economy.checks import FIRST, Calibration, is_due, lies, usual_limit, verdict
from ainet.errors import ProtocolError
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.timing import TIMING


def noise(n=2000):
    """Return margins as honest devices have them: mostly 0, now and then another token."""
    chance = random.Random(1)
    return [chance.random() * 0.5 if chance.random() < 0.025 else 0.0 for _ in range(n)]


def test_a_device_that_measured_itself_knows_how_far_honest_answers_go():
    measured = Calibration("1", noise())
    limits = [measured.limit(n) for n in (50, 200, 1000)]
    assert limits == sorted(limits, reverse=True)
    assert limits == [Calibration("1", noise()).limit(n) for n in (50, 200, 1000)]
    mean = sum(measured.noise) / len(measured.noise)
    for n, limit in zip((50, 200, 1000), limits, strict=True):
        assert mean < limit
        chance = random.Random(2)
        alarms = sum(sum(chance.choices(measured.noise, k=n)) / n > limit for _ in range(2000))
        assert alarms <= 6
        assert not verdict([0.2] * n, limit, ends=False).passed


def test_a_device_that_computes_the_same_however_it_reads_takes_the_usual_limits():
    assert Calibration("1", [0.0] * 2000).limit(200) == usual_limit(200)


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_limits_before_that_fall_with_the_length_of_the_answer(one, other):
    short, long = sorted((one, other))
    assert usual_limit(long) <= usual_limit(short)
    assert 0.01 < usual_limit(long) <= 0.2 + 1e-9


@pytest.mark.parametrize(("n", "limit"), [(50, 0.060), (200, 0.028), (1000, 0.015)])
def test_limits_before_that_are_those_that_were_measured_on_a_small_model(n, limit):
    assert usual_limit(n) == pytest.approx(limit)


def test_an_end_that_was_not_possible_is_wrong_by_itself():
    assert verdict([0.0] * 100 + [0.3], 0.02, ends=True).passed
    cut = verdict([0.0] * 100 + [1.0], 0.02, ends=True)
    assert not cut.passed
    assert cut.words == "it ends where it could not have ended"
    assert verdict([0.0] * 100 + [1.0], 0.02, ends=False).mean > 0
    assert verdict([0.5] * 100 + [1.0], 0.02, ends=True).words == ""


async def test_an_answer_that_was_not_read_to_its_end_is_not_passed(tmp_path):
    """Where a window is too small, fewer tokens are judged: none of them would be wrong."""

    class Lazy:
        version = "1"

        async def judge(self, _model, _request):
            return [0.0] * 3

    checking = Checking(Lazy(), None, tmp_path / "c.json", log=logging.getLogger("t"), timing=TIMING)
    for tokens, ended in (([1, 2, 3, 4], False), ([1, 2, 3], True), ([1, 2], False), ([], True)):
        with pytest.raises(ProtocolError, match="tokens were judged"):
            await checking.check(Sample(bytes(32), [1], [], tokens, SamplingParams(), ended))
    assert (await checking.check(Sample(bytes(32), [1], [], [1, 2], SamplingParams(), True))).passed
    await checking.stop()


def test_who_is_checked():
    assert all(is_due(n, failed_last=False, chance=7) for n in range(FIRST))
    assert not is_due(FIRST, failed_last=False, chance=7)
    assert is_due(FIRST, failed_last=False, chance=0)
    assert is_due(1000, failed_last=True, chance=7)


def test_two_of_three_decide():
    assert not lies([])
    assert not lies([True, True, False])
    assert lies([True, False, False])
    assert lies([False, True, False])
    assert not lies([False, False, True, True, True])
