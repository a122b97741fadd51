"""``--gpu`` on a device without one, or where answers shall be exact: refused in words, and not kept."""

from __future__ import annotations

import logging

import msgspec
import pytest
from support.local_nodes import SMALL, ask, nodes
from support.nodes import ainet

from ainet.api import models
from ainet.api.node import status
from ainet.config import AinetConfig
from ainet.errors import NotEnough, UsageError
from ainet.hosting.admission import admitted
from ainet.node.node import Node
from ainet.stages.llama.devices import backends, check_gpu, find_gpu
from ainet.stages.protocol.spec import StageSpec

pytestmark = pytest.mark.skipif(backends() != ["CPU"], reason="llama.cpp was built for a GPU here")


def test_a_gpu_that_llama_cpp_was_not_built_for_is_refused_and_not_kept(tmp_path, jupyter_dirs):
    refused = ainet("up", "--gpu", data_dir=tmp_path / "data")
    assert refused.returncode != 0
    assert "--gpu is set, but this llama.cpp was built for processors only" in refused.stderr
    assert "docs/gpus.md" in refused.stderr
    assert "Traceback" not in refused.stderr
    try:
        assert ainet("up", data_dir=tmp_path / "data").returncode == 0  # it was not kept
        shown = ainet("status", data_dir=tmp_path / "data").stdout
        assert "GPU" not in shown
    finally:
        ainet("down", data_dir=tmp_path / "data")


async def test_exact_answers_and_a_gpu_exclude_each_other(tmp_path):
    config = AinetConfig(data_dir=str(tmp_path / "one"), name="one", gpu=True, exact=True, **SMALL)
    node = Node(config, log=logging.getLogger("one"))
    with pytest.raises(UsageError, match="`exact` and --gpu exclude each other"):
        await node.start()
    await node.stop()


async def test_a_stage_on_a_gpu_that_is_not_there_is_refused(tmp_path, smollm2_manifest):
    spec = StageSpec(
        pipeline="p", epoch=b"e" * 16, owner="o", model=smollm2_manifest.digest, first_layer=0, last_layer=29,
        n_stages=1, n_ctx=512, n_ubatch=512, threads=1, gpu=True, sessions=1, queue=1,
    )  # fmt: skip
    async with nodes(tmp_path, one={}) as found:
        one = found["one"]
        with pytest.raises(UsageError, match=r"gives no GPU \(`ainet up --gpu`\)"):
            await one.stages.load(spec, smollm2_manifest, [], lambda _: None, local=True)
        # Nothing of a GPU is given, planned or used.
        assert (await one.call(status)).node.caps.gpu_memory == 0
        plan = await one.call(models.plan, "smollm2")
        assert [(stage.gpu, stage.gpu_memory) for stage in plan.stages] == [(False, 0)]
        assert (await ask(one)).text
    caps = msgspec.convert({"memory": 1, "threads": 1, "disk": 1, "gpu_memory": 1}, type(one.allocator.caps))
    assert admitted(spec, smollm2_manifest, caps).gpu
    with pytest.raises(UsageError, match="Answers of a GPU are not exact"):
        admitted(msgspec.structs.replace(spec, exact=True, n_ubatch=60), smollm2_manifest, caps)
    with pytest.raises(UsageError, match="2 devices cannot have 1 stages"):
        admitted(msgspec.structs.replace(spec, n_devices=2), smollm2_manifest, caps)


def test_a_gpu_that_is_gone_is_refused_with_the_numbers():
    assert find_gpu() is None
    with pytest.raises(NotEnough, match=r"Layers 0–9 needs 2 GB of the memory of a GPU, which is gone, but only 0 B"):
        check_gpu("Layers 0–9", 2_000_000_000)
