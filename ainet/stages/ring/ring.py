"""The ring of a pipeline, as the head on the last stage uses it: the first stage obeys, wherever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ainet.stages.protocol.segments import Segment
from ainet.stages.ring.frames import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

#: Steps of a replay in one frame.
MAX_STEPS = 500
_HALF = 32  # bits of a number in a segment
NO_TOKENS = np.empty(0, np.int32)


class Next(NamedTuple):
    """Tokens that a session processes next, from `position` on."""

    slot: int
    position: int
    tokens: list[int]


#: Added to the `outputs` of a prompt's segment: the prompts of others come first.
LAST = 2


class Ring:
    """Tells the first stage what to compute, and all stages what to do between two micro-batches, in order.

    Parameters
    ----------
    dispatch
        Takes a frame for the first stage: its kind, segments and tokens.
    """

    def __init__(self, dispatch: Callable[[Kind, list[Segment], NDArray[np.int32]], None]) -> None:
        self._dispatch = dispatch

    def prompt(
        self, slot: int, position: int, tokens: NDArray[np.int32], *, logits: bool, is_last: bool = False
    ) -> None:
        """Process `tokens` from `position` on, which follow what every stage has.

        Parameters
        ----------
        logits
            Whether they are wanted for the next token.
        is_last
            Whether the prompts of others come first.
        """
        self._dispatch(Kind.PROMPT, [Segment(slot, position, len(tokens), logits | is_last * LAST)], tokens)

    def replay(self, slot: int, steps: Sequence[tuple[int, list[int], int]]) -> None:
        """Process tokens that were generated before: from which position on, which ones, how many at once."""
        for i in range(0, len(steps), MAX_STEPS):
            some = steps[i : i + MAX_STEPS]
            segments = [Segment(slot, position, len(tokens), at_once) for position, tokens, at_once in some]
            self._dispatch(
                Kind.REPLAY, segments, np.array([token for _, tokens, _ in some for token in tokens], np.int32)
            )

    def tokens(self, following: Sequence[Next]) -> None:
        """Process what comes next in the sessions of a micro-batch, which has gone all the way round."""
        segments = [Segment(slot, position, len(tokens), len(tokens)) for slot, position, tokens in following]
        self._dispatch(Kind.TOKENS, segments, np.array([token for one in following for token in one.tokens], np.int32))

    def begin(self, slot: int, key: int) -> None:
        """Note which session is in a slot from now on."""
        self._order(Kind.BEGIN, Segment(slot, key >> _HALF, key & ((1 << _HALF) - 1)))

    def release(self, slot: int) -> None:
        """Forget the session; answered by `Head.released` when every stage has."""
        self._order(Kind.RELEASE, Segment(slot, 0, 0))

    def clear(self) -> None:
        """Forget every session: none runs."""
        self._order(Kind.CLEAR)

    def keep(self, slot: int, number: int) -> None:
        """Copy what is known of a session."""
        self._order(Kind.KEEP, Segment(slot, number, 0))

    def restore(self, slot: int, number: int, n: int) -> None:
        """Begin a session with the first `n` tokens of a copy."""
        self._order(Kind.RESTORE, Segment(slot, number, n))

    def forget(self, numbers: Sequence[int]) -> None:
        self._order(Kind.FORGET, *(Segment(0, number, 0) for number in numbers))

    def again(self, slot: int, n: int) -> None:
        """Bring the stages that are new up to the first `n` positions of a session, which the others have."""
        self._order(Kind.AGAIN, Segment(slot, n, 0))

    def _order(self, kind: Kind, *segments: Segment) -> None:
        self._dispatch(kind, list(segments), NO_TOKENS)


def key_of(segment: Segment) -> int:
    """Return the key in a `Kind.BEGIN` segment."""
    return segment.position << _HALF | segment.rows
