"""Writing to the disk so that nothing partial is ever taken for complete."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING, Self

from ainet.errors import AinetError, ModelError, NotEnough

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from ainet.executor.models.manifest import Tensor

CHUNK = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PartWriter:
    """A tensor on its way in: append to it, `finish` it, or `close` it and go on another time.

    Parameters
    ----------
    tensor
        What it must become.
    path
        Where the parts gather; the complete tensor lies beside it, named ``.bin``.
    received
        Told how many bytes came in.
    closed
        Told that the writer is done.

    Attributes
    ----------
    position
        Bytes that are there already; the next ones to `write` follow them.
    """

    def __init__(
        self, tensor: Tensor, path: Path, received: Callable[[int], None], closed: Callable[[PartWriter], None]
    ) -> None:
        self.tensor = tensor
        self._path = path
        self._received = received
        self._closed = closed
        self._hash = hashlib.sha256()
        self.position = 0
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        there = os.fstat(self._file.fileno()).st_size
        if there > tensor.nbytes:
            self._file.truncate(0)
            there = 0
        while self.position < there and (data := self._file.read(min(CHUNK, there - self.position))):
            self._hash.update(data)
            self.position += len(data)

    def write(self, data: bytes) -> None:
        """Append `data`.

        Raises
        ------
        ModelError
            If there are more bytes than the tensor has.
        NotEnough
            If the disk is full; what was written is removed.
        """
        if self.position + len(data) > self.tensor.nbytes:
            self.discard()
            msg = f"More bytes arrived for {self.tensor.name} than it has. They were thrown away."
            raise ModelError(msg)
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as exc:
            self.discard()
            raise disk_full(exc, self.tensor.name, self._path.parent) from exc
        self._hash.update(data)
        self.position += len(data)
        self._received(len(data))

    def finish(self) -> None:
        """Check the hash and make the tensor visible.

        Raises
        ------
        ModelError
            If bytes are missing (they can still be written), or the hash is wrong (they are thrown away).
        """
        if self.position != self.tensor.nbytes:
            msg = f"{self.tensor.name} is incomplete: {self.position:,} of {self.tensor.nbytes:,} bytes."
            raise ModelError(msg)
        if self._hash.hexdigest() != self.tensor.hash:
            self.discard()
            msg = f"The bytes that arrived for {self.tensor.name} do not have its hash. They were thrown away."
            raise ModelError(msg)
        try:
            os.fsync(self._file.fileno())
        except OSError as exc:
            self.discard()
            raise disk_full(exc, self.tensor.name, self._path.parent) from exc
        self._file.close()
        self._path.replace(self._path.with_suffix(".bin"))
        self._closed(self)

    def close(self) -> None:
        """Keep what is there for the next writer. After `finish` nothing happens."""
        self._file.close()
        self._closed(self)

    def discard(self) -> None:
        """Throw away what is there."""
        self._path.unlink(missing_ok=True)
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def disk_full(exc: OSError, what: str, folder: Path) -> AinetError:
    """Return the error for a write that failed."""
    if exc.errno in FULL:
        return NotEnough(f"The disk is full: {what} could not be written to {folder}. Free some space and try again.")
    return AinetError(f"{what} could not be written to {folder}: {exc.strerror or exc}.")


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that it is there completely or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise disk_full(exc, path.name, path.parent) from exc
    temporary.replace(path)
    sync_folder(path.parent)
