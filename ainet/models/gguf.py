"""Read GGUF files; what is read is checked as strictly as if its author wished us harm.

The format is ``docs/gguf.md`` of ggml. What llama.cpp's own reader (``ggml/src/gguf.cpp``) insists on is insisted on
here: no arrays of arrays, tensors one after the other in file order, names below 64 bytes, at most four dimensions.
Whether a file that opens is a *model* is for `ainet.models.manifest` to say.
"""

from __future__ import annotations

import os
import re
import struct
from typing import TYPE_CHECKING, BinaryIO

from ainet.errors import ModelError
from ainet.models.gguf_values import MAX_DIMENSIONS, SIZES, Kind, TensorInfo, Value, alignment_of, padded, tensor_nbytes
from ainet.units import show_bytes

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"GGUF"
VERSIONS = (2, 3)
#: The bytes of everything before the tensor data. Large vocabularies need about 20 MB.
MAX_HEADER = 64 << 20
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
#: Items of all arrays together, and of one string in bytes.
MAX_ITEMS = 4 << 20
MAX_STRING = 16 << 20
MAX_KEY = 1024
MAX_TENSOR_NAME = 63
_CHUNK = 1 << 20
_PART = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf", re.IGNORECASE)
_FIRST_PART = re.compile(r"(.*)-00001-of-(0[0-9]{4})\.gguf")


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
            The file cannot be read, is truncated, or breaks the format in any way.
        """
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                return cls._read(path, size, HeaderReader(file, size))
        except OSError as exc:
            raise ModelError(f"{path} cannot be read: {exc.strerror or exc}.") from exc
        except ModelError as exc:
            raise ModelError(f"{path.name} is not a usable GGUF file. {exc.message}", **exc.details) from exc

    @classmethod
    def _read(cls, path: Path, size: int, reader: HeaderReader) -> GGUFFile:
        if bytes(reader.read(4, "the magic number")) != MAGIC:
            raise ModelError("It does not begin with 'GGUF'.")
        version = reader.number("I")
        if version not in VERSIONS:
            raise ModelError(f"Its version is {version}; llama.cpp reads {' and '.join(map(str, VERSIONS))}.")
        n_tensors, n_keys = reader.number("Q"), reader.number("Q")
        # The smallest tensor entry has 33 bytes, the smallest metadata entry 14.
        for count, most, least, what in ((n_tensors, MAX_TENSORS, 33, "tensors"), (n_keys, MAX_KEYS, 14, "keys")):
            if count > most or count * least > size:
                raise ModelError(f"It claims {count:,} {what} in {show_bytes(size)}.")
        metadata = reader.metadata(n_keys)
        alignment = alignment_of(metadata)
        entries = [reader.tensor() for _ in range(n_tensors)]
        if len({name for name, *_ in entries}) != n_tensors:
            raise ModelError("Two tensors have the same name.")
        start = padded(reader.position, alignment)
        tensors, expected = [], 0
        for name, shape, tensor_type, offset in entries:
            nbytes = tensor_nbytes(name, shape, tensor_type)
            if offset != expected:
                raise ModelError(f"Tensor {name!r} lies at {offset:,} instead of {expected:,}.")
            if start + offset + nbytes > size:
                raise ModelError(
                    f"It is cut off: tensor {name!r} ends at byte {start + offset + nbytes:,}, the file at {size:,}."
                )
            tensors.append(TensorInfo(name, shape, tensor_type, start + offset, nbytes))
            expected = padded(offset + nbytes, alignment)
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

    def read(self, count: int, what: str) -> bytes:
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
        return int(struct.unpack("<" + code, self.read(struct.calcsize(code), what))[0])

    def text(self, most: int, what: str) -> str:
        """Return the next string, of at most `most` bytes of UTF-8."""
        length = self.number("Q", what)
        if length > most:
            raise ModelError(f"It holds {what} of {length:,} bytes; at most {most:,} are allowed.")
        try:
            text = self.read(length, what).decode()
        except UnicodeDecodeError as exc:
            raise ModelError(f"It holds {what} that is not UTF-8.") from exc
        if not text or "\0" in text:
            raise ModelError(f"It holds {what} that is empty or has a zero byte in it.")
        return text

    def metadata(self, count: int) -> dict[str, Value]:
        """Return the next `count` pairs of key and value."""
        found: dict[str, Value] = {}
        for _ in range(count):
            key = self.text(MAX_KEY, "a metadata key")
            if key in found:
                raise ModelError(f"The key {key!r} occurs twice.")
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
            return self.read(SIZES[kind], what)
        item, count = self._kind(what), self.number("Q", what)
        if item is Kind.ARRAY:
            raise ModelError(f"{what[0].upper()}{what[1:]} is an array of arrays.")
        self._items += count
        if self._items > MAX_ITEMS:
            raise ModelError(f"It holds arrays with {self._items:,} items; at most {MAX_ITEMS:,} are allowed.")
        body = self._texts(count, what) if item is Kind.STRING else self.read(count * SIZES[item], what)
        return struct.pack("<IQ", item, count) + body

    def _kind(self, what: str) -> Kind:
        number = self.number("I", what)
        if number >= len(Kind):
            raise ModelError(f"{what[0].upper()}{what[1:]} has the unknown type {number}.")
        return Kind(number)

    def _texts(self, count: int, what: str) -> bytes:
        found = bytearray()
        while count:
            count = self._buffered_texts(found, count, what)
            if count:  # the next string is not in the buffer completely
                length = self.number("Q", what)
                if length > MAX_STRING:
                    raise ModelError(f"{what[0].upper()}{what[1:]} has a string of {length:,} bytes.")
                found += struct.pack("<Q", length)
                found += self.read(length, what)
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
        found += self.read(at - self._at, what)
        return count

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Return name, shape, type and offset (from the data's beginning) of the next tensor."""
        name = self.text(MAX_TENSOR_NAME, "a tensor name")
        n_dimensions = self.number("I", name)
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise ModelError(f"Tensor {name!r} has {n_dimensions} dimensions.")
        shape = struct.unpack(f"<{n_dimensions}Q", self.read(8 * n_dimensions, name))
        return name, shape, self.number("I", name), self.number("Q", name)


def open_model(path: Path) -> list[GGUFFile]:
    """Open a model: one file, or the first of several (``NAME-00001-of-00003.gguf``) with the others beside it."""
    first = GGUFFile.open(path)
    count = first.metadata.get("split.count")
    if count is None or count.type != Kind.UINT16 or count.value < 2:
        return [first]
    paths = files_of(path)
    if len(paths) != count.value:
        raise ModelError(_part_words(first, int(count.value)))
    missing = [part.name for part in paths if not part.exists()]
    if missing:
        raise ModelError(
            f"{path.name} is the first of {len(paths)} files of a model, and {', '.join(missing[:3])} "
            f"{'is' if len(missing) == 1 else 'are'} not beside it."
        )
    files = [first, *map(GGUFFile.open, paths[1:])]
    names = [info.name for file in files for info in file.tensors]
    if len(set(names)) != len(names) or len({file.alignment for file in files}) > 1:
        raise ModelError(f"The {len(files)} files that begin with {path.name} do not belong together.")
    return files


def _part_words(file: GGUFFile, count: int) -> str:
    """Return what to do about a file that says it is a part of several, while its name does not say it is the first."""
    name, number = file.path.name, file.metadata.get("split.no")
    index = int(number.value) if number is not None and isinstance(number.value, int) else 0
    end = max((tensor.offset + tensor.nbytes for tensor in file.tensors), default=file.size)
    if file.size >= padded(end, file.alignment) + 4 and _begins_another(file.path, padded(end, file.alignment)):
        return (
            f"{name} holds several files of a model one behind the other, which is no model. Keep them apart "
            f"(…-00001-of-{count:05}.gguf and so on), or join them with `llama-gguf-split --merge`."
        )
    named = _PART.fullmatch(name)
    if named is None:
        wanted = f"{file.path.stem}-{index + 1:05}-of-{count:05}.gguf"
        return (
            f"{name} is part {index + 1} of {count} of a model, under a name of its own. Give it back its name, as "
            f"{wanted}, put the other parts beside it under names like that, and name the first one."
        )
    if int(named[3]) != count:
        return f"{name} says that it is one of {int(named[3])} files, but its model has {count}: fetch it again."
    first = f"{named[1]}-00001-of-{named[3]}.gguf"
    return f"{name} is part {index + 1} of a model in {count} files. Name the first one, {first}, with all beside it."


def _begins_another(path: Path, at: int) -> bool:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(4) == MAGIC


def files_of(path: Path) -> list[Path]:
    """Return the files of the model whose first one is `path`, as its name says."""
    named = _FIRST_PART.fullmatch(path.name)
    if named is None:
        return [path]
    return [path.with_name(f"{named[1]}-{index:05}-of-{named[2]}.gguf") for index in range(1, int(named[2]) + 1)]
