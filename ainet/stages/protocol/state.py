"""The state of a stage, for the node that hosts it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ainet.stages.protocol.recovery import Held


class StageState(NamedTuple):
    """What a stage measured and keeps.

    Attributes
    ----------
    bytes_sent, frames_sent
        To the next stage.
    decodes
        The number of calls of llama.cpp.
    token_seconds
        Seconds that a token took lately.
    rows, seconds
        Rows that were computed since its model was loaded, and the seconds that this took.
    buffers
        Bytes of llama.cpp's buffers, by kind.
    held
        Its knowledge of sessions of an earlier pipeline; None once it works, or when it has none.
    """

    bytes_sent: int
    frames_sent: int
    decodes: int
    token_seconds: float
    rows: int
    seconds: float
    buffers: dict[str, int]
    held: list[Held] | None
