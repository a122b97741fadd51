"""Three real nodes run models of about 300 MB of other kinds than Llama: experts, states, compressed keys."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
from support.architectures import DELTA, GATED, MLA, RECURRENT, SECTIONS, at
from support.smollm2 import one_process
from support.three_nodes import NAMES, Swarm, wait_for
from support.tiny_architectures import Tiny, write_tiny

from ainet.api.generate import Start, Text
from ainet.models.tensors import TensorStore
from ainet.placement.footprint import SESSIONS
from ainet.stages.protocol.sampling_params import SamplingParams

GREEDY = SamplingParams(temperature=0)
QUESTION = "Once upon a time there was a fox that lived at the edge of the forest. " * 3
SIZE = {"embedding_length": 512, "attention.head_count": 8, "context_length": 2048}
MODELS = {
    "experts": Tiny(
        "gpt-oss",
        {
            **{**SIZE, "expert_count": 32, "expert_used_count": 4, "expert_feed_forward_length": 512},
            **{"attention.head_count_kv": 2, "attention.sliding_window": 64},
        },
        12,
    ),
    "hybrid": Tiny(
        "qwen35",
        {**SIZE, **DELTA, **SECTIONS, "feed_forward_length": 14336, "attention.head_count_kv": 2},
        12,
        at("recurrent", {name: (512, *shape[1:]) for name, shape in RECURRENT.items()}),
    ),
    "compressed": Tiny(
        "deepseek2",
        {
            **{**SIZE, **MLA, **GATED, "expert_count": 32, "expert_feed_forward_length": 512},
            **{"expert_shared_count": 1, "leading_dense_block_count": 1, "feed_forward_length": 2048},
        },
        12,
    ),
}


@pytest.fixture(scope="module")
def swarm(jupyter_dirs, tmp_path_factory):
    swarm = Swarm(tmp_path_factory.mktemp("swarm"))
    models = tmp_path_factory.mktemp("models")
    for name, tiny in MODELS.items():
        write_tiny(models / f"{name}.gguf", tiny)
    swarm.models = models
    try:
        for name in NAMES:
            more = {"model_paths": [str(models)]} if name == NAMES[0] else {}
            swarm.start(name, discover_models=False, memory="2GB", **more)
        for name in NAMES[1:]:
            swarm.join(name)
        for name in NAMES:
            swarm.wait_until_connected(name, 3)
        yield swarm
    finally:
        for name in list(swarm.nodes):
            swarm.down(name)


@pytest.mark.parametrize("name", MODELS)
def test_three_devices_answer_as_one_process_does_also_when_a_stage_is_lost(swarm, name, tmp_path):
    path = swarm.models / f"{name}.gguf"
    assert 250e6 < path.stat().st_size < 450e6
    with TensorStore(tmp_path / "store") as store:
        manifest = store.register(path)
    desk = swarm.nodes["desk"]
    options = {"model": name, "stages": 3, "raw": True, "temperature": 0.0}
    # Windows have cells for as many sessions as there may be; fewer would be summed up in another order.
    expected = one_process(path, QUESTION, GREEDY, 48, raw=True, sessions=SESSIONS)
    before = {one: node.status().node.received_bytes for one, node in swarm.nodes.items()}
    answer = desk.ask(QUESTION, max_tokens=48, **options)
    assert (answer.tokens, answer.text) == expected
    assert sorted(part.node for part in answer.placement) == sorted(NAMES)

    # Each other node received the tensors of its layers only.
    for part in answer.placement:
        if part.node != "desk":
            tensors = manifest.shard_tensors(part.first_layer, part.last_layer)
            wanted = sum(tensor.nbytes for tensor in tensors if tensor.name != "tokenizer")
            received = swarm.nodes[part.node].status().node.received_bytes - before[part.node]
            assert received == pytest.approx(wanted, rel=0.02)
            assert wanted < 0.6 * manifest.nbytes

    events = desk.generate(QUESTION, max_tokens=48, **options)
    pid = next(event for event in events if isinstance(event, Start)).placement[1].pid
    next(event for event in events if isinstance(event, Text))
    os.kill(pid, signal.SIGKILL)
    done = list(events)[-1]
    assert done.event == "done", swarm.logs()
    assert (done.tokens, done.text) == expected
    assert pid not in [part.pid for part in done.placement]
    wait_for(lambda: not psutil.pid_exists(pid))
    desk.unload()
