"""Models that are not what their name says: what a seller may serve in place of the one that it names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ainet.models.gguf import GGUFFile
from ainet.models.gguf_values import Kind, Value
from ainet.models.gguf_writer import header, write

if TYPE_CHECKING:
    from pathlib import Path


def without_layers(source: Path, path: Path, left_out: set[int]) -> Path:
    """Write a model without some of its layers."""
    file = GGUFFile.open(source)
    architecture = file.metadata["general.architecture"].value
    key = f"{architecture}.block_count"
    kept = [n for n in range(int(file.metadata[key].value)) if n not in left_out]
    metadata = {**file.metadata, key: Value.of(Kind.UINT32, len(kept))}
    tensors = []
    for info in file.tensors:
        layer = re.match(r"blk\.(\d+)\.(.*)", info.name)
        if layer is None:
            tensors.append((info.name, info))
        elif int(layer[1]) in kept:
            tensors.append((f"blk.{kept.index(int(layer[1]))}.{layer[2]}", info))
    head, infos, size = header(metadata, [(name, info.shape, info.type) for name, info in tensors])
    with source.open("rb") as old, path.open("wb") as new:

        def data(info):
            old.seek(info.offset)
            yield old.read(info.nbytes)

        write(new, head, [(made, data(info)) for made, (_, info) in zip(infos, tensors, strict=True)], size)
    return path
