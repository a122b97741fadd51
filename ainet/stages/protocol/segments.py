"""A micro-batch: rows of several sessions that go through the stages together."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_FORM = struct.Struct("<HHII")
SEGMENT_BYTES = _FORM.size


class Segment(NamedTuple):
    """Rows of one session that follow each other.

    Attributes
    ----------
    slot
        Place of the session in every stage's KV cache (llama.cpp's sequence id).
    position
        Position of the first row.
    rows
        The number of rows.
    outputs
        For how many of the last rows logits are wanted.
    """

    slot: int
    position: int
    rows: int
    outputs: int = 0

    @property
    def end(self) -> int:
        """Position after the last row."""
        return self.position + self.rows


def pack(segments: Iterable[Segment]) -> bytes:
    """Return the segments as they travel."""
    return b"".join([_FORM.pack(slot, outputs, position, rows) for slot, position, rows, outputs in segments])


def unpack(data: memoryview) -> list[Segment]:
    """Return the segments of `pack`."""
    return [Segment(slot, position, rows, outputs) for slot, outputs, position, rows in _FORM.iter_unpack(data)]
