"""The hidden states that a stage has sent, kept for a stage that takes the place of the one after it."""

from __future__ import annotations

import os
import tempfile
import weakref
from typing import TYPE_CHECKING, NamedTuple

from ainet.stages.protocol.segments import Segment

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Sequence

#: Bytes of all sessions together, in files; of a session for which there is no room nothing is kept.
KEPT_BYTES = 1 << 30


class _Usage:
    """Bytes of all files of a stage."""

    def __init__(self, most: int) -> None:
        self.bytes, self.most = 0, most


class _Spool:
    """A file without a name, which ends with the last one who needs something in it."""

    def __init__(self, folder: str | None, usage: _Usage) -> None:
        self._size, self._usage = 0, usage
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        # Not in `__del__`: the collector of cycles may finalize the file first, which then complains.
        weakref.finalize(self, self._file.close)

    def append(self, data: memoryview) -> int:
        """Write `data` at the end; returns where it begins. Raises OSError."""
        if self._usage.bytes + len(data) > self._usage.most:
            raise OSError(f"they would have more than {self._usage.most >> 20} MiB")
        begin = self._size
        while data:
            n = os.pwrite(self._file.fileno(), data, self._size)
            self._size, self._usage.bytes, data = self._size + n, self._usage.bytes + n, data[n:]
        return begin

    def read(self, begin: int, length: int) -> bytes:
        """Return what was written there. Raises OSError."""
        data = os.pread(self._file.fileno(), length, begin)
        if len(data) < length:
            raise OSError("a file of them is damaged")
        return data

    def __del__(self) -> None:
        self._usage.bytes -= self._size


class _Chunk(NamedTuple):
    """Rows of a micro-batch that belong to one session, and where they are."""

    position: int
    rows: int
    spool: _Spool
    begin: int


class KeptStates:
    """The hidden states that a stage has sent of each session, in their shapes. Used by the decode thread only.

    Parameters
    ----------
    row_bytes
        Of a hidden state, as it travels.
    folder
        The folder of the files; None for the system's folder of temporary files.
    log
        Told when nothing can be kept.
    most
        Bytes that all files may have; by default `KEPT_BYTES`.
    """

    def __init__(self, row_bytes: int, folder: str | None, log: logging.Logger, most: int | None = None) -> None:
        self._row_bytes, self._folder, self._log = row_bytes, folder, log
        self._usage = _Usage(KEPT_BYTES if most is None else most)
        self._chunks: dict[int, list[_Chunk]] = {}
        self._copies: dict[int, list[_Chunk]] = {}
        self._writing: dict[int, _Spool] = {}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self._usage.bytes

    def add(self, segments: Sequence[Segment], data: memoryview) -> None:
        """Keep the rows of a micro-batch; what follows the position of a session's first row was tried only."""
        begin = 0
        for slot, position, rows, _ in segments:
            length = rows * self._row_bytes
            self._add(slot, position, rows, data[begin : begin + length])
            begin += length

    def _add(self, slot: int, position: int, rows: int, data: memoryview) -> None:
        if position == 0:
            self._chunks[slot] = []
        if self.known(slot) < position:
            return  # what comes before it is missing
        chunks = self._chunks[slot]
        while chunks and chunks[-1].position >= position:
            chunks.pop()
        try:
            spool = self._writing.get(slot)
            if spool is None:
                spool = self._writing[slot] = _Spool(self._folder, self._usage)
            chunks.append(_Chunk(position, rows, spool, spool.append(data)))
        except OSError as exc:
            self.lose(slot, str(exc))

    def lose(self, slot: int, reason: str) -> None:
        """Give up what is kept of a session."""
        self._log.warning("The hidden states of a session are not kept any more: %s", reason)
        self.release(slot)

    def known(self, slot: int) -> int:
        """Return how many positions of a session are kept, without a gap."""
        chunks = self._chunks.get(slot)
        return chunks[-1].position + chunks[-1].rows if chunks else 0

    def read(self, slot: int, n: int) -> Iterator[tuple[Segment, bytes]]:
        """Yield what was sent of the first `n` positions of a session. Raises OSError."""
        for position, rows, spool, begin in self._chunks.get(slot, ()):
            if position < n:
                yield Segment(slot, position, rows), spool.read(begin, rows * self._row_bytes)

    def release(self, slot: int) -> None:
        self._chunks.pop(slot, None)
        self._writing.pop(slot, None)

    def copy(self, slot: int, number: int) -> None:
        """Keep what there is of a session also for those that begin with a copy of it."""
        self._copies[number] = list(self._chunks.get(slot, ()))
        self._writing.pop(slot, None)  # what follows must not take room for as long as the copy is kept

    def restore(self, slot: int, number: int, n: int) -> None:
        """Begin a session with the first `n` positions of a copy."""
        self.release(slot)
        self._chunks[slot] = [chunk for chunk in self._copies.get(number, ()) if chunk.position < n]

    def forget(self, number: int) -> None:
        self._copies.pop(number, None)

    def clear(self) -> None:
        """Forget every session, but not the copies."""
        self._chunks.clear()
        self._writing.clear()
