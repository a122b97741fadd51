"""Layers follow the speed of the devices: what was measured counts, and what has changed is placed anew."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.local_nodes import ask, nodes
from support.workshop import LOG, in_workers

from ainet.api.models import plan
from ainet.resources.speeds import CHANGED, MAX_MODELS, Speeds
from ainet.timing import Timing


def test_speeds_are_kept_and_follow_what_is_measured(tmp_path):
    speeds = Speeds(tmp_path, LOG)
    assert speeds.get("m") is None
    speeds.note("m", 100.0)
    speeds.note("m", 110.0)
    assert 100 < speeds.get("m") < 110  # noise
    speeds.note("m", 300.0)
    assert speeds.get("m") == 300 > 110 * (1 + CHANGED)  # another machine, as it were
    assert Speeds(tmp_path, LOG).get("m") == 300
    for i in range(MAX_MODELS):
        speeds.note(str(i), 1.0)
    assert speeds.get("m") is None
    (tmp_path / "model_speeds.json").write_text("{")
    assert Speeds(tmp_path, LOG).get("1") is None


async def test_a_plan_says_what_was_measured_and_what_a_token_will_take(tmp_path):
    async with nodes(tmp_path, desk={}) as found:
        before = await found["desk"].call(plan, "smollm2")
        assert "as fast as it reads memory" in before.stages[0].reason
        answer = await ask(found["desk"], max_tokens=40)
        after = await found["desk"].call(plan, "smollm2")
        assert "measured with this model" in after.stages[0].reason
        # One core may be busy with something else: the figure is compared in benchmarks/pipeline.py.
        assert after.seconds == pytest.approx(1 / answer.timings.tokens_per_s, rel=2)


async def slow_down(node, layer_seconds):
    """Have each stage of a node's only pipeline that it holds itself take this much longer for each of its layers."""
    [pipeline] = node.provider.pipelines.usable()

    def prepare():
        from ainet.stages.stage import Stage

        decode = Stage._decode

        def slowly(stage, segments, rows):
            time.sleep(layer_seconds * (stage.spec.last_layer - stage.spec.first_layer))
            return decode(stage, segments, rows)

        Stage._decode = slowly

    await in_workers(node.stages, pipeline, prepare)


def held(placement, node):
    """Return the range of layers of the part that is on the node."""
    part = next(part for part in placement if part.node == node)
    return part.first_layer, part.last_layer


def size(manifest, layers):
    """Return the hashes of the tensors that a stage with these layers needs, and their bytes."""
    return {tensor.hash: tensor.nbytes for tensor in manifest.shard_tensors(*layers)}


async def test_layers_leave_a_device_that_has_become_slow(tmp_path):
    """Only their tensors travel: the other device has those that it held before, and no file of the model."""
    memory = {"memory": "190MB"}
    async with nodes(tmp_path, Timing(pool_sweep=0.2), desk=memory, attic=memory | {"discover_models": False}) as found:
        desk = found["desk"]
        manifest = await desk.provider.manifest("smollm2")
        for node, speed in ((desk, 50e9), (found["attic"], 5e9)):
            node.stages.speeds.note(manifest.digest, speed)  # so the desk gets most layers at first
        begun = await ask(desk, max_tokens=8)
        first, last = held(begun.placement, "attic")
        before = size(manifest, (first, last))
        assert begun.received["attic"] == sum(before.values())
        await slow_down(desk, 0.005)
        async with asyncio.timeout(150):
            now = last - first
            while now <= last - first:
                again = await ask(desk, max_tokens=20)
                begin, end = held(again.placement, "attic")
                now = end - begin
                await asyncio.sleep(1)  # it is not taken away from somebody who uses it
        after = size(manifest, (begin, end))
        assert again.received["attic"] == sum(nbytes for key, nbytes in after.items() if key not in before)
        assert again.received["attic"] < sum(after.values())
