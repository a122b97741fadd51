"""Placement: whole where it fits, else the fewest devices, in proportion to speed and within memory."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.whole_stage import whole

from ainet.errors import CannotSplit, NotEnough, UsageError
from ainet.placement.capacity import NodeCapacity
from ainet.placement.footprint import OVERHEAD, Footprint
from ainet.placement.planner import Planner

MB = 1_000_000


def offer(name: str, memory: int, speed: float = 5e9, threads: int = 1, workers: int | None = None) -> NodeCapacity:
    return NodeCapacity(node=name, name=name, memory=memory, threads=threads, speed=speed, workers=workers)


def ranges(plan):
    return [(stage.name, stage.first_layer, stage.last_layer) for stage in plan.stages]


def planner(manifest, *offers, n_ctx=1024):
    return Planner(manifest, offers, n_ctx=n_ctx, n_ubatch=64)


def test_a_model_that_fits_stays_on_the_asking_device(smollm2_manifest):
    plan = planner(smollm2_manifest, offer("mine", 500 * MB), offer("fast", 5000 * MB, speed=5e10)).plan()
    assert ranges(plan) == [("mine", 0, 29)]


def test_a_model_that_fits_only_elsewhere_goes_there(smollm2_manifest):
    plan = planner(smollm2_manifest, offer("mine", 50 * MB), offer("other", 500 * MB)).plan()
    assert ranges(plan) == [("other", 0, 29)]


def test_of_several_others_the_one_with_the_quickest_token_gets_the_whole_model(smollm2_manifest):
    far = msgspec.structs.replace(offer("far", 500 * MB, speed=9e9), latencies={"mine": 0.5})
    others = [offer("a", 500 * MB), offer("b", 500 * MB, speed=8e9), far, offer("small", 90 * MB, speed=9e9)]
    plan = planner(smollm2_manifest, offer("mine", 50 * MB), *others).plan()
    assert ranges(plan) == [("b", 0, 29)]
    assert [one.name for one in plan.left_out] == ["a", "far"]
    assert "would take" in plan.left_out[1].reason


def test_a_model_too_large_for_each_is_split_over_the_fewest(smollm2_manifest):
    offers = [offer("mine", 180 * MB), offer("b", 180 * MB), offer("c", 120 * MB)]
    plan = planner(smollm2_manifest, *offers).plan()
    assert [stage.name for stage in plan.stages] == ["mine", "b"]
    assert all(stage.memory <= 180 * MB for stage in plan.stages)


def test_layers_follow_measured_speed(smollm2_manifest):
    plan = planner(smollm2_manifest, offer("fast", 900 * MB, speed=4e9), offer("slow", 900 * MB, speed=2e9)).plan(2)
    assert ranges(plan) == [("fast", 0, 19), ("slow", 20, 29)]


def test_more_stages_than_devices_share_them_and_stay_adjacent(smollm2_manifest):
    plan = planner(smollm2_manifest, offer("a", 900 * MB, threads=4), offer("b", 800 * MB)).plan(4)
    assert [stage.name for stage in plan.stages] == ["a", "a", "b", "b"]
    assert [stage.threads for stage in plan.stages] == [2, 2, 1, 1]


def test_a_device_hosts_no_more_stages_than_it_has_workers(smollm2_manifest):
    with pytest.raises(NotEnough, match="3 stages were asked for, but the devices have only 2 workers"):
        planner(smollm2_manifest, offer("a", 900 * MB, workers=2)).plan(3)


def test_a_device_without_room_is_passed_over(smollm2_manifest):
    plan = planner(smollm2_manifest, offer("full", 20 * MB), offer("desk", 9000 * MB)).plan(2)
    assert [stage.name for stage in plan.stages] == ["desk", "desk"]


def test_too_little_memory_is_refused_with_the_numbers(smollm2_manifest):
    with pytest.raises(NotEnough, match=r"smollm2 needs 2\d\d MB .*free within the owners' caps: a 10 MB, b 20 MB"):
        planner(smollm2_manifest, offer("a", 10 * MB), offer("b", 20 * MB)).plan()


def test_too_many_stages_are_refused(smollm2_manifest):
    with pytest.raises(CannotSplit, match="at most 30 stages, not 31"):
        planner(smollm2_manifest, offer("a", 9000 * MB)).plan(31)


@settings(max_examples=60, deadline=None)
@given(
    memories=st.lists(st.integers(5, 900), min_size=1, max_size=5),
    speeds=st.lists(st.floats(1e8, 1e11), min_size=5, max_size=5),
    stages=st.one_of(st.none(), st.integers(1, 6)),
)
def test_every_plan_covers_each_layer_once_within_every_cap(smollm2_manifest, memories, speeds, stages):
    offers = [
        offer(f"n{i}", memory * MB, speed) for i, (memory, speed) in enumerate(zip(memories, speeds, strict=False))
    ]
    try:
        plan = planner(smollm2_manifest, *offers).plan(stages)
    except NotEnough:
        return
    layers = [layer for stage in plan.stages for layer in range(stage.first_layer, stage.last_layer + 1)]
    assert layers == list(range(30))
    assert stages in (None, len(plan.stages))
    for one in offers:
        assert sum(stage.memory for stage in plan.stages if stage.node == one.node) <= one.memory


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1024, 63), (8, 1000, 63), (8, 4096, 32), (32, 512, 63)])
def test_no_model_takes_more_memory_than_was_planned(smollm2_store, smollm2_manifest, sizes, exact):
    options = dict(zip(("sessions", "n_ctx", "n_ubatch"), sizes, strict=True)) | {"exact": exact}
    planned = Footprint(smollm2_manifest, **options).memory(0, 29)
    stage = whole(smollm2_store, smollm2_manifest, threads=2, **options)
    stage.start(None, None)
    stage.stop()
    assert 0 <= planned - OVERHEAD - sum(stage.llama.buffers.values()) < 20 * MB


def test_of_a_private_question_both_ends_stay_here_and_the_rest_goes_elsewhere(smollm2_manifest):
    offers = [offer("mine", 260 * MB), offer("b", 500 * MB), offer("c", 500 * MB, speed=1e9)]
    assert ranges(planner(smollm2_manifest, *offers, n_ctx=8192).plan()) == [("b", 0, 29)]
    plan = planner(smollm2_manifest, *offers, n_ctx=8192).plan(private=True)
    assert [stage.name for stage in plan.stages] == ["mine", "b", "mine"]
    assert [stage.first_layer for stage in plan.stages[1:]] == [stage.last_layer + 1 for stage in plan.stages[:-1]]
    assert (plan.stages[0].first_layer, plan.stages[-1].last_layer) == (0, 29)
    assert plan.stages[0].memory + plan.stages[-1].memory <= 260 * MB
    assert "others see no tokens" in plan.why
    with pytest.raises(UsageError, match="no number of stages"):
        planner(smollm2_manifest, *offers, n_ctx=8192).plan(3, private=True)
    roomy = planner(smollm2_manifest, offer("mine", 500 * MB), offer("fast", 5000 * MB, speed=5e10))
    assert ranges(roomy.plan(private=True)) == [("mine", 0, 29)]


@given(
    own=st.integers(150, 380),
    others=st.lists(st.tuples(st.integers(20, 300), st.floats(1e9, 2e10)), max_size=4),
    workers=st.sampled_from([None, 0, 1, 2, 5]),
)
@settings(max_examples=40, deadline=None)
def test_a_private_question_goes_to_no_other_end_whatever_there_is(smollm2_manifest, own, others, workers):
    offers = [offer(f"o{i}", memory * MB, speed=speed) for i, (memory, speed) in enumerate(others)]
    try:
        plan = planner(smollm2_manifest, offer("mine", own * MB, workers=workers), *offers, n_ctx=8192).plan(
            private=True
        )
    except NotEnough:
        return
    stages = plan.stages
    assert stages[0].name == stages[-1].name == "mine"
    assert {stage.name for stage in stages[1:-1]} <= {one.name for one in offers}
    assert sum(stage.memory for stage in stages if stage.name == "mine") <= own * MB
    assert workers is None or sum(stage.name == "mine" for stage in stages) <= workers


def test_a_private_question_is_refused_where_it_would_have_to_leave(smollm2_manifest):
    with pytest.raises(NotEnough, match="smollm2 needs"):
        planner(smollm2_manifest, offer("mine", 260 * MB), n_ctx=8192).plan(private=True)
    for little in (offer("mine", 30 * MB), offer("mine", 260 * MB, workers=1)):
        with pytest.raises(NotEnough, match=r"must stay on this device, and take at least 2\d\d MB in two workers"):
            planner(smollm2_manifest, little, offer("b", 900 * MB), n_ctx=8192).plan(private=True)
    alone = planner(smollm2_manifest, offer("mine", 260 * MB), offer("b", 900 * MB), n_ctx=8192)
    alone._cuts = [15]
    with pytest.raises(CannotSplit, match="first and last layers stay here"):
        alone.plan(private=True)
