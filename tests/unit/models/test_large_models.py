"""A model of 400 GB in nine files, which hold nothing: what is known of it is not read again."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest
from support.real_shapes import REAL_SHAPES
from support.tiny_architectures import ALIGNMENT, write_tiny
from support.tiny_models import write_model

from ainet.models import tensors as tensors_module
from ainet.models.gguf import open_model
from ainet.models.gguf_values import Kind, Value
from ainet.models.gguf_writer import header
from ainet.models.tensors import TensorStore

if TYPE_CHECKING:
    from pathlib import Path

N_FILES = 9
LAYERS = 70


def write_large(folder: Path) -> Path:
    """Write DeepSeek-V3 with 70 layers, in nine files without weights."""
    shape = REAL_SHAPES["DeepSeek-V3"]
    (file,) = open_model(write_tiny(folder / "small.gguf", shape, seed=None))
    layer = [info for info in file.tensors if info.name.startswith("blk.4.")]
    outer = [info for info in file.tensors if not info.name.startswith("blk.")]
    dense = [info for info in file.tensors if info.name.startswith(("blk.0.", "blk.1.", "blk.2."))]
    tensors = [(info.name, info.shape, info.type) for info in (*outer, *dense)]
    for number in range(3, LAYERS):
        tensors += [(f"blk.{number}.{info.name.split('.', 2)[2]}", info.shape, info.type) for info in layer]
    metadata = {**file.metadata, "deepseek2.block_count": Value.of(Kind.UINT32, LAYERS)}
    each = -(-len(tensors) // N_FILES)
    for number in range(N_FILES):
        split = {
            "split.no": Value.of(Kind.UINT16, number),
            "split.count": Value.of(Kind.UINT16, N_FILES),
            "split.tensors.count": Value.of(Kind.INT32, len(tensors)),
        }
        part = tensors[number * each : (number + 1) * each]
        head, _, size = header({**(metadata if number == 0 else {}), **split}, part)
        path = folder / f"large-{number + 1:05}-of-{N_FILES:05}.gguf"
        path.write_bytes(head)
        os.truncate(path, size + ALIGNMENT)
    return folder / f"large-00001-of-{N_FILES:05}.gguf"


def note_all(store: TensorStore, first: Path) -> None:
    """Note hashes for every tensor, as if all files had been read before."""
    for file in open_model(first):
        places = [(hashlib.sha256(info.name.encode()).hexdigest(), info.offset, info.nbytes) for info in file.tensors]
        store.index.add(file.path, file.path.stat(), places)


def test_what_was_hashed_once_is_not_read_again(tmp_path):
    first = write_large(tmp_path)
    with TensorStore(tmp_path / "store") as store:
        note_all(store, first)
        told: list[tuple[int, int]] = []
        manifest = store.register(first, name="large", progress=lambda done, total: told.append((done, total)))
        assert manifest.nbytes > 400e9
        assert told[-1] == (manifest.nbytes, manifest.nbytes)
        assert store.register(first, name="large").digest == manifest.digest
        wanted = sum(tensor.nbytes for tensor in manifest.shard_weights(10, 12))
        assert wanted < 0.05 * manifest.nbytes


def test_hashing_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    path = write_model(tmp_path / "tiny.gguf", "llama", 6)
    monkeypatch.setattr(tensors_module, "NOTE_EVERY", 0.0)
    hashed: list[str] = []
    hash_tensor = tensors_module._hash_tensor

    def counting(handle, info, name, read):
        if len(hashed) == 20:
            raise KeyboardInterrupt
        hashed.append(info.name)
        return hash_tensor(handle, info, name, read)

    def noting(handle, info, name, read):
        hashed.append(info.name)
        return hash_tensor(handle, info, name, read)

    monkeypatch.setattr(tensors_module, "_hash_tensor", counting)
    with TensorStore(tmp_path / "store") as store, pytest.raises(KeyboardInterrupt):
        store.register(path)
    assert len(hashed) == 20
    with TensorStore(tmp_path / "store") as store:
        assert store.digest_of(path) is None
        hashed.clear()
        monkeypatch.setattr(
            tensors_module, "_hash_tensor", lambda *more: hashed.append(more[1].name) or hash_tensor(*more)
        )
        manifest = store.register(path)
    assert not set(hashed) & {"token_embd.weight", "blk.0.attn_q.weight"}
    with TensorStore(tmp_path / "fresh") as fresh:
        assert fresh.register(path).digest == manifest.digest
    assert len(hashed) == 2 * len(manifest.tensors) - 20


def test_a_file_that_changed_is_hashed_anew(tmp_path, monkeypatch):
    path = write_model(tmp_path / "tiny.gguf", "llama", 6)
    monkeypatch.setattr(tensors_module, "NOTE_EVERY", 0.0)
    with TensorStore(tmp_path / "store") as store:
        before = store.register(path).digest
        write_model(path, "llama", 6, seed=1)
        assert store.register(path).digest != before
