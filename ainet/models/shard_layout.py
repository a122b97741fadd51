"""What a shard's file consists of: a range of a model's layers, as a model of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ainet.models.gguf_values import F32, Kind, Value, smallest_type, tensor_nbytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ainet.models.manifest import Manifest


class ShardTensor(msgspec.Struct, frozen=True):
    """A tensor of a shard: `hash` is empty for a placeholder of zeros."""

    name: str
    shape: tuple[int, ...]
    type: int
    nbytes: int
    hash: str


def layout(manifest: Manifest, first: int, last: int) -> list[ShardTensor]:
    """Return the tensors of a shard, in its own numbering.

    llama.cpp insists on an embedding table. Where none is used it has one row of zeros; in a last stage with an output
    matrix of its own, that matrix takes its place: llama.cpp then uses it for the output, as for models that share one.
    Some architectures insist on an output matrix as well: it has one row of zeros where no output is computed, and
    beside the real one the table is one of zeros, in the smallest type.
    """
    is_last = last == manifest.n_layers - 1
    whole = first == 0 and is_last
    untied = manifest.tensor("output.weight") is not None
    placeholders = manifest.split.placeholders(manifest)
    found = []
    for tensor in manifest.shard_weights(first, last):
        name = tensor.name
        if not whole:
            if name == "token_embd.weight" and not (is_last and not untied):
                continue
            if name == "output.weight" and not placeholders:
                name = "token_embd.weight"
            elif tensor.layer is not None:
                name = f"blk.{tensor.layer - first}.{name.split('.', 2)[2]}"
        found.append(ShardTensor(name, tensor.shape, tensor.type, tensor.nbytes, tensor.hash))
    if not is_last:
        found += [_zeros(name, (manifest.n_embd, 1) if name.endswith("weight") else (1,), F32) for name in placeholders]
    if not is_last or (placeholders and untied and not whole):
        rows = manifest.n_vocab if is_last else 1
        found.append(_zeros("token_embd.weight", (manifest.n_embd, rows), smallest_type(manifest.n_embd, rows)))
    return found


def _zeros(name: str, shape: tuple[int, ...], kind: int) -> ShardTensor:
    return ShardTensor(name, shape, kind, tensor_nbytes(name, shape, kind), "")


def shard_metadata(manifest: Manifest, first: int, last: int, vocabulary: Mapping[str, Value]) -> dict[str, Value]:
    """Return the metadata of a shard; only a last stage has the vocabulary (``tokenizer.*``)."""
    is_last = last == manifest.n_layers - 1
    if first == 0 and is_last:
        return {**manifest.metadata, **vocabulary}
    metadata = manifest.split.metadata(manifest, first, last)
    if is_last:
        return {**metadata, **vocabulary}
    metadata["tokenizer.ggml.model"] = Value.of(Kind.STRING, "none")
    metadata[f"{manifest.architecture}.vocab_size"] = Value.of(Kind.UINT32, 1)
    return metadata
