"""A node's GPU and its processors are two places for layers; memory of each is planned by itself."""

from __future__ import annotations

import msgspec
import pytest
from support.real_shapes import REAL_SHAPES
from support.tiny_architectures import write_tiny

from ainet.errors import NotEnough
from ainet.models.gguf import open_model
from ainet.models.manifest import Manifest
from ainet.placement.capacity import GPU_PROCESS, NodeCapacity
from ainet.placement.footprint import GPU_CONTEXT, GPU_UBATCH, Footprint
from ainet.placement.planner import Planner
from ainet.placement.survey import Sizes
from ainet.resources.memory import Memory

MB, GB = 1_000_000, 1_000_000_000
#: Of SmolLM2 whole on a GPU with chunks of 512: 0.65 GB for the driver, 0.1 GB of weights and as much beside them.
ENOUGH = 1200 * MB


def device(name="desk", *, memory=8 * GB, gpu=ENOUGH, speed=500e9, **more):
    return NodeCapacity(
        node=name, name=name, memory=memory, threads=4, speed=5e9, gpu_memory=gpu, gpu_speed=speed, **more
    )


def plan_of(manifest, *devices, stages=None, **more):
    return Planner(manifest, devices, n_ctx=1024, n_ubatch=64, **more).plan(stages)


def places(plan):
    return [(stage.name, stage.gpu, stage.first_layer, stage.last_layer) for stage in plan.stages]


def test_what_fits_on_the_gpu_goes_there_in_long_chunks(smollm2_manifest):
    plan = plan_of(smollm2_manifest, device())
    assert places(plan) == [("desk", True, 0, 29)]
    (stage,) = plan.stages
    assert plan.n_ubatch == GPU_UBATCH
    assert GPU_CONTEXT + 100 * MB < stage.gpu_memory < ENOUGH
    assert GPU_PROCESS < stage.memory < GPU_PROCESS + 100 * MB
    assert stage.threads == 1
    assert plan.why == "The whole model fits on this device's GPU."
    assert "1.2 GB free on its GPU" in stage.reason


def test_what_the_gpu_cannot_hold_alone_fits_on_the_processors(smollm2_manifest):
    plan = plan_of(smollm2_manifest, device(gpu=700 * MB))
    assert places(plan) == [("desk", False, 0, 29)]
    assert (plan.n_ubatch, plan.stages[0].gpu_memory) == (64, 0)


def test_a_slow_gpu_is_not_preferred(smollm2_manifest):
    assert places(plan_of(smollm2_manifest, device(speed=1e9))) == [("desk", False, 0, 29)]


def test_a_model_is_split_between_the_gpu_and_the_processors_of_one_device(smollm2_manifest):
    whole = Footprint(smollm2_manifest, n_ctx=1024, n_ubatch=64).memory(0, 29)
    plan = plan_of(smollm2_manifest, device(memory=GPU_PROCESS + whole - 60 * MB, gpu=GPU_CONTEXT + 130 * MB))
    assert {(stage.name, stage.gpu) for stage in plan.stages} == {("desk", True), ("desk", False)}
    on_gpu = next(stage for stage in plan.stages if stage.gpu)
    assert on_gpu.gpu_memory <= GPU_CONTEXT + 130 * MB
    assert plan.n_ubatch == 64  # the processors' share sets it
    assert sum(stage.last_layer - stage.first_layer + 1 for stage in plan.stages) == 30


def test_nothing_goes_on_a_gpu_without_memory_for_its_process(smollm2_manifest):
    with pytest.raises(NotEnough, match=r"free within the owners' caps: desk's GPU 1.2 GB, desk 0 B"):
        plan_of(smollm2_manifest, device(memory=100 * MB))


def test_exact_answers_come_from_processors(smollm2_manifest):
    assert places(plan_of(smollm2_manifest, device(), exact=True)) == [("desk", False, 0, 29)]


def test_stages_that_are_asked_for_are_on_the_gpu_as_far_as_it_holds_them(smollm2_manifest):
    many = plan_of(smollm2_manifest, device(gpu=4 * GB), stages=3)
    assert [stage.gpu for stage in many.stages] == [True] * 3
    assert sum(stage.gpu_memory for stage in many.stages) < 4 * GB
    few = plan_of(smollm2_manifest, device(gpu=800 * MB), stages=2)
    assert {stage.gpu for stage in few.stages} == {True, False}


def test_the_gpu_of_another_device_and_the_way_to_it_count(smollm2_manifest):
    own = device("mine", memory=100 * MB, gpu=0)
    near, far = device("near", speed=100e9), device("far", latencies={"mine": 0.5})
    plan = plan_of(smollm2_manifest, own, near, far)
    assert places(plan) == [("near", True, 0, 29)]
    assert [one.name for one in plan.left_out] == ["near", "far's GPU", "far"]


def test_a_node_with_one_worker_uses_one_of_the_two(smollm2_manifest):
    assert [part.gpu for part in device(workers=1).parts()] == [True]
    assert [part.gpu for part in device(workers=2).parts()] == [True, False]
    assert [part.gpu for part in device(gpu=0).parts()] == [False]
    assert [part.gpu for part in msgspec.structs.replace(device(), gpu_speed=0.0).parts()] == [False]


def test_a_stage_on_a_gpu_takes_what_its_layers_take(smollm2_manifest):
    footprint = Footprint(smollm2_manifest, n_ctx=1024, n_ubatch=GPU_UBATCH)
    first, last, whole = footprint.on_gpu(0, 14), footprint.on_gpu(15, 29), footprint.on_gpu(0, 29)
    assert first.gpu - GPU_CONTEXT > footprint.weights(0, 14) + footprint.caches(0, 14)
    # The matrix that makes logits is with the last layers; the whole model also looks tokens up, on the host.
    logits = smollm2_manifest.tensor("token_embd.weight").nbytes
    assert last.gpu - first.gpu > logits
    assert whole.host > first.host + logits


def test_a_pipeline_in_longer_chunks_serves_unless_answers_are_exact():
    assert Sizes(1024, 64).allow(1024, 64)
    assert Sizes(1024, 64).allow(1024, GPU_UBATCH)
    assert not Sizes(1024, 63).allow(1024, GPU_UBATCH)
    assert not Sizes(1024, 64).allow(2048, 64)


def test_memory_is_counted_by_kind():
    assert Memory(5, 7) - Memory(6, 1) == Memory(-1, 6)
    assert (Memory(5, 7) - Memory(6, 1)).lacks
    assert (Memory(5) - Memory(0, 1)).lacks
    assert not (Memory(5, 1) - Memory(5, 1)).lacks
    assert Memory(1, 0).helps(Memory(-1, 0))
    assert not Memory(1, 0).helps(Memory(0, -1))


@pytest.fixture(scope="module")
def glm(tmp_path_factory):
    """Six layers in the dimensions of GLM-4.5-Air: 128 experts, of which a token uses 8."""
    path = write_tiny(tmp_path_factory.mktemp("glm") / "glm.gguf", REAL_SHAPES["GLM-4.5-Air"], seed=None)
    return Manifest.draft("glm", open_model(path))


def test_of_experts_a_token_reads_those_that_it_uses(glm):
    footprint = Footprint(glm, n_ctx=1024, n_ubatch=64)
    weights, experts, used = footprint.weights(0, 5), footprint.experts(0, 5), footprint.used_experts(0, 5)
    assert 0.8 * weights < experts < weights
    assert used == pytest.approx(experts / 16, abs=6)
    assert footprint.read(0, 5) == weights - experts + used + glm.tensor("token_embd.weight").nbytes
    assert footprint.experts(0, 0) == 0  # the first layer is dense


def test_experts_that_a_gpu_cannot_hold_stay_with_the_processors(glm):
    footprint = Footprint(glm, n_ctx=1024, n_ubatch=GPU_UBATCH)
    whole, without = footprint.on_gpu(0, 5), footprint.on_gpu(0, 5, experts_on_host=True)
    assert without.gpu == whole.gpu - footprint.experts(0, 5)
    assert without.host == whole.host + footprint.experts(0, 5)
    (all_there,) = plan_of(glm, device(memory=64 * GB, gpu=whole.gpu)).stages
    assert (all_there.gpu, all_there.experts_on_host) == (True, False)
    plan = plan_of(glm, device(memory=64 * GB, gpu=without.gpu))
    (stage,) = plan.stages
    assert (stage.gpu, stage.experts_on_host, stage.threads) == (True, True, 4)
    assert (stage.gpu_memory, stage.memory) == (without.gpu, without.host)
    assert stage.reason.endswith("free on its GPU, experts on its processors")
    # It is predicted by the speed of each: the processors read the experts that a token uses.
    on_host = footprint.used_experts(0, 5) / (4 * 5e9)
    assert all_there.seconds < on_host < stage.seconds < on_host + 0.01
    # Where the host has no room for all of them, some layers go to the processors whole.
    less = plan_of(glm, device(memory=without.host - 200 * MB, gpu=without.gpu))
    assert [stage.gpu for stage in less.stages].count(True) == 1
    assert len(less.stages) == 2
