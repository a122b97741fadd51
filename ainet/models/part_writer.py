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

    from ainet.models.description import Tensor

CHUNK = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PartWriter:
    """A tensor on its way in: append to it, `finish` it, or `close` it and go on another time.

    Parameters
    ----------
    tensor
        The tensor that it must become.
    path
        The file in which the parts gather; the complete tensor lies beside it, named ``.bin``.
    received
        Told how many bytes came in.
    closed
        Told that the writer is done.

    Attributes
    ----------
    position
        Bytes that are there already; the next ones to `write` follow them.
    received
        Bytes that this writer took in, whatever became of them.

    Raises
    ------
    NotEnough
        If the disk is full.
    """

    def __init__(
        self, tensor: Tensor, path: Path, received: Callable[[int], None], closed: Callable[[PartWriter], None]
    ) -> None:
        self.tensor = tensor
        self._path = path
        self._received = received
        self._closed = closed
        self._hash = hashlib.sha256()
        self._hashed = 0
        self.received = 0
        try:
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        except OSError as exc:
            raise disk_full(exc, tensor.name, path.parent) from exc
        self.position = os.fstat(self._file.fileno()).st_size
        if self.position > tensor.nbytes:
            self._file.truncate(0)
            self.position = 0

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
            raise ModelError(f"More bytes arrived for {self.tensor.name} than it has. They were thrown away.")
        view = memoryview(data)
        try:
            self._hash_rest()
            while view:
                view = view[self._file.write(view) :]
        except OSError as exc:
            self.discard()
            raise disk_full(exc, self.tensor.name, self._path.parent) from exc
        self._hash.update(data)
        self._hashed += len(data)
        self.position += len(data)
        self.received += len(data)
        self._received(len(data))

    def finish(self) -> None:
        """Check the hash and make the tensor visible.

        Raises
        ------
        ModelError
            If bytes are missing (they can still be written), or the hash is wrong (they are thrown away).
        """
        if self.position != self.tensor.nbytes:
            raise ModelError(f"{self.tensor.name} is incomplete: {self.position:,} of {self.tensor.nbytes:,} bytes.")
        try:
            self._hash_rest()
            if self._hash.hexdigest() != self.tensor.hash:
                self.discard()
                raise ModelError(
                    f"The bytes that arrived for {self.tensor.name} do not have its hash. They were thrown away."
                )
            os.fsync(self._file.fileno())
            self._file.close()
            self._path.replace(self._path.with_suffix(".bin"))
        except OSError as exc:
            self.discard()
            raise disk_full(exc, self.tensor.name, self._path.parent) from exc
        self._closed(self)

    def close(self) -> None:
        """Keep what is there for the next writer. After `finish` nothing happens."""
        self._file.close()
        self._closed(self)

    def discard(self) -> None:
        """Throw away what is there."""
        self._path.unlink(missing_ok=True)
        self.close()

    def _hash_rest(self) -> None:
        # What an earlier writer left is hashed here, not while opening, where writers of other tensors would wait.
        if self._hashed < self.position:
            self._file.seek(self._hashed)
        while self._hashed < self.position:
            data = self._file.read(min(CHUNK, self.position - self._hashed))
            if not data:
                raise ModelError(f"The part of {self.tensor.name} became shorter while it was read.")
            self._hash.update(data)
            self._hashed += len(data)

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
