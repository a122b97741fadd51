"""Write GGUF files, tensor by tensor."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO

from ainet.errors import ModelError
from ainet.models.gguf import MAGIC, VERSIONS
from ainet.models.gguf_values import TensorInfo, Value, alignment_of, padded, sized, tensor_nbytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def header(
    metadata: Mapping[str, Value], tensors: Sequence[tuple[str, Sequence[int], int]]
) -> tuple[bytes, list[TensorInfo], int]:
    """Lay out a GGUF file.

    Parameters
    ----------
    metadata
        Written in this order.
    tensors
        Name, shape and type of each.

    Returns
    -------
    tuple
        The bytes before the tensor data (padded), where each tensor belongs, and the size of the complete file.
    """
    alignment = alignment_of(metadata)
    parts = [MAGIC, struct.pack("<IQQ", VERSIONS[-1], len(tensors), len(metadata)), encode_metadata(metadata)]
    places, position = [], 0
    for name, shape, tensor_type in tensors:
        nbytes = tensor_nbytes(name, shape, tensor_type)
        parts.append(sized(name.encode()))
        parts.append(struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, tensor_type, position))
        places.append((position, nbytes))
        position = padded(position + nbytes, alignment)
    head = b"".join(parts)
    head += bytes(padded(len(head), alignment) - len(head))
    laid_out = [
        TensorInfo(name, tuple(shape), tensor_type, len(head) + offset, nbytes)
        for (name, shape, tensor_type), (offset, nbytes) in zip(tensors, places, strict=True)
    ]
    return head, laid_out, len(head) + position


def write(file: BinaryIO, head: bytes, tensors: Iterable[tuple[TensorInfo, Iterable[bytes]]], size: int) -> None:
    """Write a file laid out by `header`, tensor by tensor, never holding more than one chunk."""
    file.write(head)
    position = len(head)
    for info, chunks in tensors:
        file.write(bytes(info.offset - position))
        position = info.offset
        for chunk in chunks:
            file.write(chunk)
            position += len(chunk)
        if position != info.offset + info.nbytes:
            raise ModelError(f"Tensor {info.name!r} has {position - info.offset:,} bytes instead of {info.nbytes:,}.")
    file.write(bytes(size - position))


def encode_metadata(metadata: Mapping[str, Value]) -> bytes:
    """Return keys and values as they stand in a file."""
    return b"".join(sized(key.encode()) + struct.pack("<I", value.type) + value.raw for key, value in metadata.items())
