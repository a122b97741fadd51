"""Read and write GGUF files; what is read is checked as strictly as if its author wished us harm.

The format is ``docs/gguf.md`` of ggml. What llama.cpp's own reader (``ggml/src/gguf.cpp``) insists on is insisted on
here: no arrays of arrays, tensors one after the other in file order, names below 64 bytes, at most four dimensions.
Whether a file that opens is a *model* is for `ainet.executor.manifest` to say.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import msgspec

from ainet.config import show_bytes
from ainet.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
#: The bytes of everything before the tensor data. Large vocabularies need about 20 MB.
MAX_HEADER = 64 << 20
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
#: Items of all arrays together, and of one string in bytes.
MAX_ITEMS = 4 << 20
MAX_STRING = 16 << 20
MAX_KEY = 1024
MAX_TENSOR_NAME = 63
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20
#: llama.cpp maps tensors where they lie and insists on 32 byte boundaries (TENSOR_ALIGNMENT in ggml-impl.h).
MIN_ALIGNMENT = 32
_CHUNK = 1 << 20

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
            return Value(kind, _string(str(value).encode()))
        return Value(kind, struct.pack("<" + FORMATS[kind], value))

    @staticmethod
    def array(kind: Kind, items: Sequence[Any]) -> Value:
        """Encode an array of scalars of one kind."""
        head = struct.pack("<IQ", kind, len(items))
        if kind is Kind.STRING:
            return Value(Kind.ARRAY, head + b"".join(_string(str(item).encode()) for item in items))
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
            msg = "Only arrays of numbers have parts."
            raise ModelError(msg)
        size = SIZES[kind]
        items = self.raw[12 + first * size : 12 + (last + 1) * size]
        return Value(Kind.ARRAY, struct.pack("<IQ", kind, len(items) // size) + items)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies in its file.

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
        msg = f"Tensor {name!r} has the type {tensor_type}, which is not a type of weights that llama.cpp knows."
        raise ModelError(msg)
    if not 1 <= len(shape) <= MAX_DIMENSIONS or any(not 1 <= size < 1 << 40 for size in shape):
        msg = f"Tensor {name!r} has the impossible shape {list(shape)}."
        raise ModelError(msg)
    if shape[0] % found.block:
        msg = f"Tensor {name!r}: rows of {shape[0]} values do not consist of {found.name}'s blocks of {found.block}."
        raise ModelError(msg)
    count = found.nbytes * (shape[0] // found.block)
    for size in shape[1:]:
        count *= size
    if count >= 1 << 50:
        msg = f"Tensor {name!r} with shape {list(shape)} would have {show_bytes(count)}."
        raise ModelError(msg)
    return count


class GGUFFile:
    """The header of a GGUF file, read and checked.

    Attributes
    ----------
    path, size
        The file and its size in bytes.
    metadata
        Keys and values in file order.
    tensors
        In file order; every one lies completely inside the file and none overlaps another.
    alignment
        Bytes; the data of each tensor begins at a multiple of it.
    """

    def __init__(
        self, path: Path, size: int, metadata: dict[str, Value], tensors: list[TensorInfo], alignment: int
    ) -> None:
        self.path = path
        self.size = size
        self.metadata = metadata
        self.tensors = tensors
        self.alignment = alignment

    @classmethod
    def open(cls, path: Path) -> GGUFFile:
        """Read the header of `path`.

        Raises
        ------
        ModelError
            When the file cannot be read, is truncated, or breaks the format in any way.
        """
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                return cls._read(path, size, HeaderReader(file, size))
        except OSError as exc:
            msg = f"{path} cannot be read: {exc.strerror or exc}."
            raise ModelError(msg) from exc
        except ModelError as exc:
            msg = f"{path.name} is not a usable GGUF file. {exc.message}"
            raise ModelError(msg, **exc.details) from exc

    @classmethod
    def _read(cls, path: Path, size: int, reader: HeaderReader) -> GGUFFile:
        if bytes(reader.take(4, "the magic number")) != MAGIC:
            msg = "It does not begin with 'GGUF'."
            raise ModelError(msg)
        version = reader.number("I")
        if version not in VERSIONS:
            msg = f"Its version is {version}; llama.cpp reads {' and '.join(map(str, VERSIONS))}."
            raise ModelError(msg)
        n_tensors, n_keys = reader.number("Q"), reader.number("Q")
        # The smallest tensor entry has 33 bytes, the smallest metadata entry 14.
        for count, most, least, what in ((n_tensors, MAX_TENSORS, 33, "tensors"), (n_keys, MAX_KEYS, 14, "keys")):
            if count > most or count * least > size:
                msg = f"It claims {count:,} {what} in {show_bytes(size)}."
                raise ModelError(msg)
        metadata = reader.metadata(n_keys)
        alignment = _alignment(metadata)
        entries = [reader.tensor() for _ in range(n_tensors)]
        if len({name for name, *_ in entries}) != n_tensors:
            msg = "Two tensors have the same name."
            raise ModelError(msg)
        start = _padded(reader.position, alignment)
        tensors, expected = [], 0
        for name, shape, tensor_type, offset in entries:
            nbytes = tensor_nbytes(name, shape, tensor_type)
            if offset != expected:
                msg = f"Tensor {name!r} lies at {offset:,} instead of {expected:,}."
                raise ModelError(msg)
            if start + offset + nbytes > size:
                msg = f"It is cut off: tensor {name!r} ends at byte {start + offset + nbytes:,}, the file at {size:,}."
                raise ModelError(msg)
            tensors.append(TensorInfo(name, shape, tensor_type, start + offset, nbytes))
            expected = _padded(offset + nbytes, alignment)
        return cls(path, size, metadata, tensors, alignment)


class HeaderReader:
    """Take values off the front of a file, never more than its size or `MAX_HEADER`."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = min(size, MAX_HEADER)
        self._cut_off = size < MAX_HEADER
        self._buffer = b""
        self._at = 0
        self._items = 0
        #: Bytes taken so far.
        self.position = 0

    def take(self, count: int, what: str) -> bytes:
        """Return the next `count` bytes."""
        if len(self._buffer) - self._at < count:
            self._fill(count, what)
        self._at += count
        self.position += count
        return self._buffer[self._at - count : self._at]

    def _fill(self, count: int, what: str) -> None:
        rest = self._buffer[self._at :]
        missing = count - len(rest)
        if missing <= self._left:
            more = self._file.read(min(max(missing, _CHUNK), self._left))
            self._left -= len(more)
            if len(more) >= missing:
                self._buffer, self._at = rest + more, 0
                return
        if self._cut_off:
            msg = f"It ends in the middle of {what}."
        else:
            msg = f"Its header has more than {show_bytes(MAX_HEADER)}."
        raise ModelError(msg)

    def number(self, code: str, what: str = "a number") -> int:
        """Return the next integer of struct format `code`."""
        return int(struct.unpack("<" + code, self.take(struct.calcsize(code), what))[0])

    def text(self, most: int, what: str) -> str:
        """Return the next string, of at most `most` bytes of UTF-8."""
        length = self.number("Q", what)
        if length > most:
            msg = f"It holds {what} of {length:,} bytes; at most {most:,} are allowed."
            raise ModelError(msg)
        try:
            text = self.take(length, what).decode()
        except UnicodeDecodeError as exc:
            msg = f"It holds {what} that is not UTF-8."
            raise ModelError(msg) from exc
        if not text or "\0" in text:
            msg = f"It holds {what} that is empty or has a zero byte in it."
            raise ModelError(msg)
        return text

    def metadata(self, count: int) -> dict[str, Value]:
        """Return the next `count` pairs of key and value."""
        found: dict[str, Value] = {}
        for _ in range(count):
            key = self.text(MAX_KEY, "a metadata key")
            if key in found:
                msg = f"The key {key!r} occurs twice."
                raise ModelError(msg)
            found[key] = self.value(key)
        return found

    def value(self, key: str) -> Value:
        """Return the next value, type first."""
        what = f"the value of {key!r}"
        kind = self._kind(what)
        return Value(kind, self.payload(kind, what))

    def payload(self, kind: Kind, what: str) -> bytes:
        """Return the bytes of a value of `kind`, checked."""
        if kind is Kind.STRING:
            return self._texts(1, what)
        if kind is not Kind.ARRAY:
            return self.take(SIZES[kind], what)
        item, count = self._kind(what), self.number("Q", what)
        if item is Kind.ARRAY:
            msg = f"{what[0].upper()}{what[1:]} is an array of arrays."
            raise ModelError(msg)
        self._items += count
        if self._items > MAX_ITEMS:
            msg = f"It holds arrays with {self._items:,} items; at most {MAX_ITEMS:,} are allowed."
            raise ModelError(msg)
        body = self._texts(count, what) if item is Kind.STRING else self.take(count * SIZES[item], what)
        return struct.pack("<IQ", item, count) + body

    def _kind(self, what: str) -> Kind:
        number = self.number("I", what)
        if number >= len(Kind):
            msg = f"{what[0].upper()}{what[1:]} has the unknown type {number}."
            raise ModelError(msg)
        return Kind(number)

    def _texts(self, count: int, what: str) -> bytes:
        found = bytearray()
        while count:
            count = self._buffered_texts(found, count, what)
            if count:  # the next string is not in the buffer completely
                length = self.number("Q", what)
                if length > MAX_STRING:
                    msg = f"{what[0].upper()}{what[1:]} has a string of {length:,} bytes."
                    raise ModelError(msg)
                found += struct.pack("<Q", length)
                found += self.take(length, what)
                count -= 1
        return bytes(found)

    def _buffered_texts(self, found: bytearray, count: int, what: str) -> int:
        """Append the strings that are in the buffer to `found`; return how many of `count` are left.

        Vocabularies have half a million strings, so this loop is kept short.
        """
        buffer, at, unpack = self._buffer, self._at, struct.Struct("<Q").unpack_from
        last = len(buffer) - 8
        while count and at <= last:
            end = at + 8 + unpack(buffer, at)[0]
            if end > len(buffer):
                break
            at = end
            count -= 1
        found += self.take(at - self._at, what)
        return count

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Return name, shape, type and offset (from the data's beginning) of the next tensor."""
        name = self.text(MAX_TENSOR_NAME, "a tensor name")
        n_dimensions = self.number("I", name)
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            msg = f"Tensor {name!r} has {n_dimensions} dimensions."
            raise ModelError(msg)
        shape = struct.unpack(f"<{n_dimensions}Q", self.take(8 * n_dimensions, name))
        return name, shape, self.number("I", name), self.number("Q", name)


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
    alignment = _alignment(metadata)
    parts = [MAGIC, struct.pack("<IQQ", VERSIONS[-1], len(tensors), len(metadata)), encode_metadata(metadata)]
    places, position = [], 0
    for name, shape, tensor_type in tensors:
        nbytes = tensor_nbytes(name, shape, tensor_type)
        parts.append(_string(name.encode()))
        parts.append(struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, tensor_type, position))
        places.append((position, nbytes))
        position = _padded(position + nbytes, alignment)
    head = b"".join(parts)
    head += bytes(_padded(len(head), alignment) - len(head))
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
            msg = f"Tensor {info.name!r} has {position - info.offset:,} bytes instead of {info.nbytes:,}."
            raise ModelError(msg)
    file.write(bytes(size - position))


def encode_metadata(metadata: Mapping[str, Value]) -> bytes:
    """Return keys and values as they stand in a file."""
    return b"".join(
        _string(key.encode()) + struct.pack("<I", value.type) + value.raw for key, value in metadata.items()
    )


def _alignment(metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment")
    if value is None:
        return DEFAULT_ALIGNMENT
    alignment = value.value if value.type == Kind.UINT32 else 0
    if not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        msg = f"Its alignment is not a power of two between {MIN_ALIGNMENT} and {MAX_ALIGNMENT:,}."
        raise ModelError(msg)
    return int(alignment)


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text
