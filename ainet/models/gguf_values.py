"""The values of GGUF files: metadata of thirteen kinds, and tensors of ggml's types."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ainet.errors import ModelError
from ainet.units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20
#: llama.cpp maps tensors where they lie and insists on 32 byte boundaries (TENSOR_ALIGNMENT in ggml-impl.h).
MIN_ALIGNMENT = 32

Scalar = int | float | bool | str


class Kind(IntEnum):
    """Types of metadata values (``enum gguf_type``)."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


#: struct format of each fixed-size kind.
FORMATS = {
    Kind.UINT8: "B",
    Kind.INT8: "b",
    Kind.UINT16: "H",
    Kind.INT16: "h",
    Kind.UINT32: "I",
    Kind.INT32: "i",
    Kind.FLOAT32: "f",
    Kind.BOOL: "?",
    Kind.UINT64: "Q",
    Kind.INT64: "q",
    Kind.FLOAT64: "d",
}
SIZES = {kind: struct.calcsize(code) for kind, code in FORMATS.items()}


class TensorType(NamedTuple):
    """A ggml type: `block` values take `nbytes` bytes."""

    name: str
    block: int
    nbytes: int


#: ``enum ggml_type`` and the block sizes of ``type_traits`` in ggml.c, without the types that only activations have.
TENSOR_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
    41: TensorType("Q1_0", 128, 18),
    42: TensorType("Q2_0", 64, 18),
}
F32 = 0
I8 = 24
#: Types for rows of zeros that nobody reads, smallest first (IQ1_S, Q2_0, Q8_0).
_SMALLEST = (19, 42, 8)


class Value(msgspec.Struct, frozen=True, array_like=True):
    """One metadata value, kept as the bytes that stand in the file.

    Attributes
    ----------
    type
        A `Kind`.
    raw
        The payload as stored: for strings the length and the text, for arrays the item kind, the count and the items.
    """

    type: int
    raw: bytes

    @staticmethod
    def of(kind: Kind, value: Scalar) -> Value:
        """Encode a scalar."""
        if kind is Kind.STRING:
            return Value(kind, sized(str(value).encode()))
        return Value(kind, struct.pack("<" + FORMATS[kind], value))

    @staticmethod
    def array(kind: Kind, items: Sequence[Any]) -> Value:
        """Encode an array of scalars of one kind."""
        head = struct.pack("<IQ", kind, len(items))
        if kind is Kind.STRING:
            return Value(Kind.ARRAY, head + b"".join(sized(str(item).encode()) for item in items))
        return Value(Kind.ARRAY, head + struct.pack(f"<{len(items)}{FORMATS[kind]}", *items))

    @property
    def item_type(self) -> Kind | None:
        """The kind of an array's items, None for a scalar."""
        return Kind(struct.unpack_from("<I", self.raw)[0]) if self.type == Kind.ARRAY else None

    def __len__(self) -> int:
        """Return the number of an array's items, 1 for a scalar."""
        return int(struct.unpack_from("<Q", self.raw, 4)[0]) if self.type == Kind.ARRAY else 1

    @property
    def value(self) -> Any:
        """The Python value; text that is not UTF-8 has its bad bytes replaced."""
        if self.type == Kind.STRING:
            return self.raw[8:].decode(errors="replace")
        if self.type != Kind.ARRAY:
            return struct.unpack("<" + FORMATS[Kind(self.type)], self.raw)[0]
        kind = self.item_type
        if kind is Kind.STRING:
            return [text.decode(errors="replace") for text in self.texts()]
        assert kind is not None  # noqa: S101 (an array has an item kind)
        return list(struct.unpack_from(f"<{len(self)}{FORMATS[kind]}", self.raw, 12))

    def texts(self) -> list[bytes]:
        """Return the items of an array of strings, as bytes."""
        raw, position, found = self.raw, 12, []
        for _ in range(len(self)):
            (length,) = struct.unpack_from("<Q", raw, position)
            position += 8 + length
            found.append(raw[position - length : position])
        return found

    def part(self, first: int, last: int) -> Value:
        """Return the items [first, last] of an array of numbers."""
        kind = self.item_type
        if kind is None or kind is Kind.STRING:
            raise ModelError("Only arrays of numbers have parts.")
        size = SIZES[kind]
        items = self.raw[12 + first * size : 12 + (last + 1) * size]
        return Value(Kind.ARRAY, struct.pack("<IQ", kind, len(items) // size) + items)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The place of a tensor in its file.

    Attributes
    ----------
    shape
        Dimensions in ggml's order: the contiguous one first.
    type
        ggml's number of the type, a key of `TENSOR_TYPES`.
    offset
        Bytes from the beginning of the file.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    nbytes: int


def tensor_nbytes(name: str, shape: Sequence[int], tensor_type: int) -> int:
    """Return the size of a tensor in bytes, or raise `ModelError` for a shape or type that cannot be."""
    found = TENSOR_TYPES.get(tensor_type)
    if found is None:
        raise ModelError(
            f"Tensor {name!r} has the type {tensor_type}, which is not a type of weights that llama.cpp knows."
        )
    if not 1 <= len(shape) <= MAX_DIMENSIONS or any(not 1 <= size < 1 << 40 for size in shape):
        raise ModelError(f"Tensor {name!r} has the impossible shape {list(shape)}.")
    if shape[0] % found.block:
        raise ModelError(
            f"Tensor {name!r}: rows of {shape[0]} values do not consist of {found.name}'s blocks of {found.block}."
        )
    count = found.nbytes * (shape[0] // found.block)
    for size in shape[1:]:
        count *= size
    if count >= 1 << 50:
        raise ModelError(f"Tensor {name!r} with shape {list(shape)} would have {show_bytes(count)}.")
    return count


def smallest_type(row: int, rows: int) -> int:
    """Return the type in which `rows` rows of `row` zeros take the least memory."""
    if rows == 1:
        return F32
    return next((kind for kind in _SMALLEST if row % TENSOR_TYPES[kind].block == 0), F32)


def alignment_of(metadata: Mapping[str, Value]) -> int:
    """Return the alignment (bytes) that a file with this metadata has; raises `ModelError` for one that cannot be."""
    value = metadata.get("general.alignment")
    if value is None:
        return DEFAULT_ALIGNMENT
    alignment = value.value if value.type == Kind.UINT32 else 0
    if not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise ModelError(f"Its alignment is not a power of two between {MIN_ALIGNMENT} and {MAX_ALIGNMENT:,}.")
    return int(alignment)


def padded(position: int, alignment: int) -> int:
    """Return the next multiple of `alignment`."""
    return -(-position // alignment) * alignment


def sized(text: bytes) -> bytes:
    """Return a string as it stands in a file: length first."""
    return struct.pack("<Q", len(text)) + text
