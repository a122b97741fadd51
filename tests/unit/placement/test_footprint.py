"""The memory that is planned for a stage, against what llama.cpp would allocate for models of real dimensions."""

from __future__ import annotations

import pytest
from support.allocated import MIB, allocated, write_shard
from support.architectures import TINY
from support.real_shapes import REAL_SHAPES
from support.tiny_architectures import write_tiny

from ainet.errors import CannotSplit
from ainet.models.gguf import open_model
from ainet.models.manifest import Manifest
from ainet.models.tokenizer import vocabulary
from ainet.placement.footprint import LOGITS, OVERHEAD, Footprint
from ainet.placement.rollback import MOST, rollback_of

#: Context, micro-batch, sessions.
SIZES = [(4096, 63, 8), (32768, 63, 1), (8192, 512, 4)]


def ranges(manifest):
    """Yield the whole model, and a first, a middle and a last stage of it."""
    n = manifest.n_layers
    yield 0, n - 1
    cuts = [0, *manifest.cuts, n]
    for first, last in ((cuts[0], cuts[1] - 1), (cuts[1], cuts[-2] - 1), (cuts[-2], n - 1)):
        try:
            manifest.check_range(first, last)
        except CannotSplit:
            continue
        yield first, last


@pytest.mark.parametrize("name", REAL_SHAPES)
def test_what_is_planned_is_what_llama_cpp_allocates(name, tmp_path):
    files = open_model(write_tiny(tmp_path / "model.gguf", REAL_SHAPES[name], seed=None))
    manifest = Manifest.draft(name, files)
    for first, last in ranges(manifest):
        shard = write_shard(tmp_path / "shard.gguf", manifest, first, last, vocabulary(files[0]))
        weights = sum(info.nbytes for info in open_model(shard)[0].tensors)
        for n_ctx, n_ubatch, sessions in SIZES:
            rollback = rollback_of(
                manifest, sessions=sessions, exact=False, speculate=n_ctx != 32768
            )  # with and without
            footprint = Footprint(manifest, n_ctx=n_ctx, n_ubatch=n_ubatch, sessions=sessions, rollback=rollback)
            outputs = max(sessions, LOGITS) if last == manifest.n_layers - 1 else n_ubatch
            sequences = 1 if manifest.split.alone else sessions
            sizes = {
                "n_ctx": n_ctx,
                "sequences": sequences,
                "n_ubatch": n_ubatch,
                "outputs": outputs,
                "rollback": rollback,
            }
            found = allocated(shard, weights, **sizes)
            assert footprint.caches(first, last) == pytest.approx(found.caches, abs=0.01 * MIB * 4)
            planned = footprint.memory(first, last) - OVERHEAD
            assert planned == pytest.approx(sum(found), rel=0.05), (first, last, n_ctx, found)


@pytest.mark.parametrize(
    ("name", "most"),
    [("qwen35", 3), ("glm4moe-mtp", 5), ("gemma4", 4), ("llama4", 3), ("smallthinker", 2), ("glm-dsa-types", 4)],
)
def test_stages_are_no_more_than_kinds_of_layers_allow(name, most, tmp_path):
    manifest = Manifest.draft(name, open_model(write_tiny(tmp_path / "tiny.gguf", TINY[name], seed=None)))
    assert manifest.most_stages == most
    assert manifest.most_stages <= len(manifest.cuts) + 1


def test_states_that_go_back_take_an_eighth_of_the_weights_at_most(tmp_path):
    def manifest(name):
        return Manifest.draft(name, open_model(write_tiny(tmp_path / "model.gguf", REAL_SHAPES[name], seed=None)))

    qwen = manifest("Qwen3.5 35B-A3B")
    wanted = {"sessions": 8, "exact": False, "speculate": True}
    weights = sum(tensor.nbytes for tensor in qwen.tensors)
    state = sum(layer.state for layer in qwen.layers)
    for sessions in (1, 8, 32, 100):
        n = rollback_of(qwen, **wanted | {"sessions": sessions})
        assert n * sessions * state <= weights / 8
        assert n == MOST or (n + 1) * sessions * state > weights / 8
    assert rollback_of(qwen, **wanted | {"exact": True}) == 0
    assert rollback_of(qwen, **wanted | {"speculate": False}) == 0
    assert rollback_of(manifest("LFM2 8B-A1B"), **wanted) == MOST
    for name in ("Llama 3 8B", "Granite 4 H Small"):  # without states, and where llama.cpp cannot take them back
        assert rollback_of(manifest(name), **wanted) == 0
