"""The importance of columns is the mean square of what they are multiplied with."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from support.tiny_models import N_EMBD, N_VOCAB, write_model

from ainet.errors import ModelError
from ainet.models.gguf import GGUFFile
from ainet.quantising import llama_quantise
from ainet.quantising.formats import FORMATS
from ainet.quantising.importance import Importance
from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.segments import Segment

N = 48


def read(path, importance, tokens):
    with Llama(path, hidden_out=False, n_ctx=128, n_ubatch=N, n_outputs=N, mapped=True, watched=importance) as llama:
        llama.decode(tokens, [Segment(0, 0, len(tokens), outputs=len(tokens))])


def tensor(path, name):
    found = next(one for one in gguf.GGUFReader(path).tensors if one.name == name)
    return gguf.dequantize(found.data, found.tensor_type)


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(3, N_VOCAB, N).astype(np.int32)


def test_it_is_the_mean_square_of_the_normed_embeddings(tmp_path, tokens):
    path = write_model(tmp_path / "tiny.gguf", "llama", n_layers=2)
    importance = Importance()
    read(path, importance, tokens)
    matrix = importance.matrix()
    x = tensor(path, "token_embd.weight")[tokens]
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * tensor(path, "blk.0.attn_norm.weight")
    for name in ("q", "k", "v"):
        np.testing.assert_allclose(matrix[f"blk.0.attn_{name}.weight"], (x**2).mean(axis=0), rtol=1e-4)
    assert {name for name in matrix if name.startswith("blk.")} == {
        f"blk.{layer}.{part}.weight"
        for layer in range(2)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    }


def test_experts_have_their_own_inputs(tmp_path, tokens):
    """Where a token goes to all experts, each has the router's inputs; otherwise their mean, weighted, is."""
    values = {"expert_count": 4, "expert_used_count": 4, "expert_feed_forward_length": 96}
    path = write_model(tmp_path / "all.gguf", "qwen3moe", n_layers=1, n_experts=4, metadata=values)
    importance = Importance()
    read(path, importance, tokens)
    matrix = importance.matrix()
    router = matrix["blk.0.ffn_gate_inp.weight"]
    np.testing.assert_allclose(
        matrix["blk.0.ffn_gate_exps.weight"].reshape(4, N_EMBD), np.tile(router, (4, 1)), rtol=1e-5
    )
    some = write_model(
        tmp_path / "some.gguf", "qwen3moe", n_layers=1, n_experts=4, metadata=values | {"expert_used_count": 1}
    )
    importance = Importance()
    read(some, importance, tokens)
    counts, sums = importance._counts["blk.0.ffn_up_exps.weight"], importance._sums["blk.0.ffn_up_exps.weight"]
    assert counts.sum() == N
    assert len(set(counts)) > 1
    np.testing.assert_allclose(sums.sum(axis=0) / N, importance.matrix()["blk.0.ffn_gate_inp.weight"], rtol=1e-5)


def test_what_was_summed_up_is_taken_up_again(tmp_path, tokens):
    path = write_model(tmp_path / "tiny.gguf", "llama", n_layers=2)
    both, first = Importance(), Importance()
    for part in (tokens[:20], tokens[20:]):
        read(path, both, part)
    read(path, first, tokens[:20])
    first.keep(tmp_path / "sums.npz")
    second = Importance()
    assert second.take_up(tmp_path / "sums.npz")
    read(path, second, tokens[20:])
    for name, values in both.matrix().items():
        np.testing.assert_array_equal(second.matrix()[name], values)
    (tmp_path / "sums.npz").write_bytes((tmp_path / "sums.npz").read_bytes()[:100])
    assert not Importance().take_up(tmp_path / "sums.npz")


def test_nothing_was_read():
    with pytest.raises(ModelError, match="cannot be measured: no products"):
        Importance().matrix()


def test_important_columns_are_kept_better(tmp_path):
    """A column that counts a thousand times as much as the others loses less."""
    path = write_model(tmp_path / "tiny.gguf", "llama", n_layers=1, n_embd=256)
    name = "blk.0.ffn_gate.weight"
    source = tensor(path, name)
    errors = {}
    for column in (3, 200):
        values = np.ones(256, np.float32)
        values[column] = 1000.0
        target = tmp_path / f"{column}.gguf"
        llama_quantise.quantise(
            path, target, FORMATS["Q4_0"], threads=1, importance={name: values}, notes={}, progress=lambda *_: None
        )
        errors[column] = ((tensor(target, name) - source) ** 2).mean(axis=0)
    assert errors[3][3] < 0.5 * errors[200][3]
    assert errors[200][200] < 0.5 * errors[3][200]


def test_new_types_are_those_that_are_written(tmp_path):
    path = write_model(tmp_path / "tiny.gguf", "llama", n_layers=3, n_embd=256)
    told = []
    for name in ("Q4_0", "Q4_K_M", "F16", "Q8_0"):
        types = llama_quantise.new_types(path, FORMATS[name], importance=False)
        target = tmp_path / f"{name}.gguf"
        llama_quantise.quantise(
            path, target, FORMATS[name], threads=2, importance={}, notes={"ainet.source": "a" * 64},
            progress=lambda done, total: told.append((done, total)),
        )  # fmt: skip
        made = GGUFFile.open(target)
        before = {info.name: info.type for info in GGUFFile.open(path).tensors}
        assert {info.name: info.type for info in made.tensors} == before | types
        assert made.metadata["ainet.source"].value == "a" * 64
        assert made.metadata["general.file_type"].value == FORMATS[name].number
        assert made.metadata["general.license"].value == "apache-2.0"
        count = len(made.tensors)
        assert told == [(number + 1, count) for number in range(count)]
        told.clear()


def test_what_llama_cpp_does_not_write_is_refused_in_words(tmp_path):
    path = write_model(tmp_path / "tiny.gguf", "llama", n_layers=1, n_embd=256)
    with pytest.raises(ModelError, match=r"cannot write tiny.gguf as IQ1_S: this quantization requires an imatrix"):
        llama_quantise.quantise(
            path, tmp_path / "x", FORMATS["IQ1_S"], threads=1, importance={}, notes={}, progress=lambda *_: None
        )
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ModelError, match=r"cannot write tiny.gguf as Q4_0: .*corrupted or incomplete"):
        llama_quantise.new_types(path, FORMATS["Q4_0"], importance=False)
