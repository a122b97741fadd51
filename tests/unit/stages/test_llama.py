"""llama.cpp through ctypes: shards give the logits of the whole model, bit for bit."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from support.smollm2 import CHUNK, N_CTX

from ainet.errors import ModelError, NotEnough
from ainet.models.shards import ShardStore
from ainet.stages.llama.embedding import Embedding
from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.segments import Segment


@pytest.mark.parametrize("n_stages", [2, 3, 4])
def test_stages_give_bit_identical_logits(smollm2_store, smollm2_manifest, smollm2_path, n_stages):
    cuts = [round(i * 30 / n_stages) for i in range(n_stages + 1)]
    shards = [ShardStore(smollm2_store).assemble(smollm2_manifest, cuts[i], cuts[i + 1] - 1) for i in range(n_stages)]
    embedding = Embedding(shards[0])
    sizes = {"n_ctx": N_CTX, "n_ubatch": CHUNK, "threads": 1}
    whole = Llama(smollm2_path, hidden_out=False, **sizes)
    stages = [Llama(shard.path, hidden_out=not shard.is_last, **sizes) for shard in shards]
    position, tokens = 0, (np.arange(CHUNK, dtype=np.int32) * 7919) % 20000 + 10
    for _ in range(12):
        segments = [Segment(0, position, len(tokens), 1)]
        whole.decode(tokens, segments)
        rows = embedding.look_up(tokens)
        for stage in stages:
            rows = stage.decode(rows, segments)
        assert np.array_equal(whole.logits(), stages[-1].logits())
        position += len(tokens)
        tokens = np.array([int(whole.logits().argmax())], np.int32)
    for one in (whole, embedding, *stages):
        one.close()


def test_what_llama_cpp_reports_is_known(smollm2_path):
    with Llama(smollm2_path, hidden_out=False, n_ctx=256) as llama:
        assert llama.buffers["model"] > 90e6
        assert llama.buffers["kv"] == pytest.approx(30 * 256 * 2 * 192 * 2, rel=0.01)  # reported in 0.01 MiB
        assert (llama.n_layers, llama.n_embd, llama.n_vocab) == (30, 576, 49152)


def test_a_refused_file_is_named(tmp_path):
    path = tmp_path / "junk.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load junk\.gguf"):
        Llama(path, hidden_out=False, n_ctx=256)


def test_a_full_cache_is_said(smollm2_path):
    with Llama(smollm2_path, hidden_out=False, n_ctx=256) as llama:
        tokens = np.arange(64, dtype=np.int32)
        for position in range(0, 256, 64):
            llama.decode(tokens, [Segment(0, position, 64)])
        with pytest.raises(NotEnough, match="KV cache of 256 tokens is full at position 256"):
            llama.decode(tokens[:1], [Segment(0, 256, 1)])


def test_a_token_outside_the_vocabulary_is_refused(smollm2_store, smollm2_manifest):
    embedding = Embedding(ShardStore(smollm2_store).assemble(smollm2_manifest, 0, 14))
    with pytest.raises(ModelError, match="outside the vocabulary of 49152"):
        embedding.look_up(np.array([49152], np.int32))
    embedding.close()


FORGOTTEN = """
import gc, sys
from llama_cpp import llama_cpp as C
from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.segments import Segment
for _ in range(5):
    first = Llama(sys.argv[1], hidden_out=False, n_ctx=64)
    second = Llama(sys.argv[1], hidden_out=False, n_ctx=64)
    second.close()
    del second
    gc.collect()
    others = [C.llama_log_callback(lambda *_: 1 / 0) for _ in range(100)]  # take the place of what was freed
    first.close()
print("alive")
"""


@pytest.mark.node
def test_a_model_can_be_freed_after_another_one_was_loaded_and_forgotten(smollm2_path):
    done = subprocess.run(
        [sys.executable, "-c", FORGOTTEN, str(smollm2_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
    assert "ZeroDivisionError" not in done.stderr
