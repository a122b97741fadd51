"""Plans for devices that are not there."""

from __future__ import annotations

import pytest

from ainet.errors import UsageError
from ainet.placement.planner import Planner
from ainet.placement.what_if import described

DESK = {"name": "desk", "memory": "170MB", "speed": "8GB"}


def plan(manifest, *devices):
    return Planner(manifest, described({"devices": list(devices)}).capacities(), n_ctx=1024, n_ubatch=64).plan()


def test_a_fast_device_nearby_is_taken_and_a_far_one_left_out(smollm2_manifest):
    near = {"name": "near", "memory": "170MB", "speed": "8GB", "latency_ms": {"desk": 1}}
    far = {"name": "far", "memory": "170MB", "speed": "80GB", "latency_ms": 80}
    found = plan(smollm2_manifest, DESK, near, far)
    assert {stage.name for stage in found.stages} == {"desk", "near"}
    (left,) = found.left_out
    assert left.name == "far"
    assert "a token would take 1" in left.reason  # 160 ms there and back, at least
    assert 0.014 < found.seconds < 0.03
    assert plan(smollm2_manifest, DESK, near | {"latency_ms": {"desk": 200}}, far).left_out[0].name == "near"


def test_a_narrow_cable_counts_for_hidden_states_but_not_for_the_token_that_comes_back(smollm2_manifest):
    def seconds(**way):
        near = {"name": "near", "memory": "170MB", "speed": "8GB", "latency_ms": {"desk": 1}}
        return plan(smollm2_manifest, DESK, near | way).seconds

    row = 4 * smollm2_manifest.n_embd
    assert seconds(bandwidth={"desk": "100kB"}) - seconds() == pytest.approx(row / 100e3)
    assert seconds(bandwidth="1MB") - seconds() == pytest.approx(row / 1e6)


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ([], "length >= 1"),
        ([{"name": "desk"}], "missing required field `memory`"),
        ([DESK, DESK], "Two of the described devices have the same name"),
        ([DESK | {"memory": "much"}], "'much' is not a size"),
        ([DESK | {"speed": "0GB"}], "must be more than 0"),
        ([DESK | {"latency_ms": {"moon": 1300}}], "there is no device moon"),
        ([DESK | {"latency_ms": -1}], "not understood"),
        ([DESK | {"bandwidth": "0B"}, DESK | {"name": "attic"}], "bandwidth of desk is 0B; it must be more than 0"),
        ([DESK | {"bandwidth": {"moon": "1MB"}}], "there is no device moon"),
        ([DESK | {"colour": "red"}], "unknown field `colour`"),
        ("desk", "Expected `array`"),
    ],
)
def test_what_cannot_be_is_refused_with_words(devices, words):
    with pytest.raises(UsageError, match=words):
        described({"devices": devices}).capacities()


def test_a_gpu_can_be_described(smollm2_manifest):
    found = plan(smollm2_manifest, DESK | {"memory": "2GB", "gpu_memory": "1.2GB"})
    assert [(stage.gpu, stage.seconds < 0.001) for stage in found.stages] == [(True, True)]
    slow = plan(smollm2_manifest, DESK | {"memory": "2GB", "gpu_memory": "1.2GB", "gpu_speed": "1GB"})
    assert [stage.gpu for stage in slow.stages] == [False]
    with pytest.raises(UsageError, match="The GPU's speed of desk is 0B; it must be more than 0"):
        described({"devices": [DESK | {"gpu_memory": "1GB", "gpu_speed": "0B"}]}).capacities()
