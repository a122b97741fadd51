"""Embedding models in llama.cpp, and MiniLM from the weights of a package."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.embedding import write_model

from ainet.errors import AinetError, ModelError
from ainet.models.gguf import GGUFFile
from ainet.vectors import minilm
from ainet.vectors.gguf_model import GGUFModel


def test_texts_have_vectors_of_length_one_that_depend_on_the_text(tmp_path):
    model = GGUFModel(write_model(tmp_path / "tiny.gguf"))
    vectors = model.passages(["the cat sleeps", "the dog sleeps", "taxes are due in april", ""])
    assert vectors.shape == (4, model.dimensions)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(model.question("the cat sleeps"), vectors[0], atol=1e-5)
    assert not np.allclose(vectors[0], vectors[2], atol=1e-2)
    assert model.passages([]).shape == (0, model.dimensions)
    assert (model.name, len(model.hash)) == ("tiny", 64)


def test_long_texts_are_cut(tmp_path):
    model = GGUFModel(write_model(tmp_path / "tiny.gguf"))
    long, longer = model.passages(["the cat " * 300, "the cat " * 3000])
    assert np.allclose(long, longer, atol=1e-5)


def test_families_of_models_get_their_prefixes(tmp_path):
    plain = GGUFModel(write_model(tmp_path / "tiny.gguf"))
    family = GGUFModel(write_model(tmp_path / "small-e5.gguf", name="small e5"))
    assert np.allclose(family.question("a cat"), plain.question("query: a cat"), atol=1e-5)
    assert np.allclose(family.passages(["a cat"]), plain.passages(["passage: a cat"]), atol=1e-5)


def test_what_is_no_model_is_refused_in_words(tmp_path):
    (tmp_path / "junk.gguf").write_bytes(b"junk")
    with pytest.raises(ModelError):
        GGUFModel(tmp_path / "junk.gguf")


def package(folder):
    """Write a package's model folder, much smaller than the real one."""
    drawn, words = np.random.default_rng(0), ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "##s", "dog"]
    weights = {
        "embeddings.word_embeddings.weight": (len(words), 384),
        "embeddings.position_embeddings.weight": (512, 384),
        "embeddings.position_ids": (1, 512),
        "embeddings.token_type_embeddings.weight": (2, 384),
        "embeddings.LayerNorm.weight": (384,),
        "embeddings.LayerNorm.bias": (384,),
        "pooler.dense.weight": (384, 384),
    }
    for layer in range(6):
        for part in ("query", "key", "value"):
            weights[f"encoder.layer.{layer}.attention.self.{part}.weight"] = (384, 384)
            weights[f"encoder.layer.{layer}.attention.self.{part}.bias"] = (384,)
        for part, shape in (
            ("attention.output.dense", (384, 384)),
            ("intermediate.dense", (1536, 384)),
            ("output.dense", (384, 1536)),
        ):
            weights[f"encoder.layer.{layer}.{part}.weight"] = shape
            weights[f"encoder.layer.{layer}.{part}.bias"] = shape[:1]
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            weights[f"encoder.layer.{layer}.{part}.weight"] = (384,)
            weights[f"encoder.layer.{layer}.{part}.bias"] = (384,)
    folder.mkdir()
    save_file(
        {name: drawn.standard_normal(shape).astype(np.float32) for name, shape in weights.items()},
        folder / "model.safetensors",
    )
    vocabulary = {"model": {"vocab": {word: number for number, word in enumerate(words)}}}
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    return folder


def test_a_package_becomes_a_model(tmp_path):
    folder = package(tmp_path / "model")
    with pytest.raises(AinetError, match="are not those of all-MiniLM-L6-v2"):
        minilm.convert(folder, tmp_path / "made.gguf")
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    minilm.convert(folder, tmp_path / "made.gguf", sha256=weights)
    made = GGUFFile.open(tmp_path / "made.gguf")
    names = {one.name for one in made.tensors}
    assert len(names) == 5 + 6 * 16
    assert made.metadata["tokenizer.ggml.tokens"].value[5:] == ["▁cat", "s", "▁dog"]
    model = GGUFModel(tmp_path / "made.gguf")
    vectors = model.passages(["cats", "dog"])
    assert vectors.shape == (2, 384)
    assert model.name == "all-MiniLM-L6-v2"


def test_eight_bits_are_enough():
    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    values[0, :32] = 0
    made = np.frombuffer(minilm.quantised(values), np.dtype([("scale", "<f2"), ("values", "i1", 32)]))
    back = (made["scale"].astype(np.float32)[:, None] * made["values"]).reshape(values.shape)
    assert np.abs(back - values).max() < 0.02
    assert not back[0, :32].any()
