"""A stage's knowledge of its sessions: keys and values in llama.cpp's cache, copies, and the hidden states it sent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ainet.errors import ProtocolError
from ainet.stages.protocol.recovery import Held
from ainet.stages.protocol.segments import Segment
from ainet.stages.ring.frames import Kind
from ainet.stages.ring.ring import key_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from ainet.stages.llama.llama import Llama
    from ainet.stages.protocol.recovery import Recovery
    from ainet.stages.ring.hidden_states import HiddenStates
    from ainet.stages.ring.kept_states import KeptStates


class KVCache:
    """The sessions of a stage. It outlives the stage when another one takes its place.

    Parameters
    ----------
    llama
        The shard.
    hidden_states
        The form in which its output travels.
    kept
        Keeps what was sent; None where no stage follows, or none could use it.
    exact
        Whether cells of sessions that have ended stay taken until no session runs.
    """

    def __init__(self, llama: Llama, hidden_states: HiddenStates, kept: KeptStates | None, *, exact: bool) -> None:
        self.llama = llama
        self._hidden_states = hidden_states
        self._kept = kept
        self._exact = exact
        self._filled: dict[int, int] = {}  # positions of each slot
        self._rows: dict[int, int] = {}  # that were decoded last for each slot
        self._left: dict[int, int] = {}  # cells of each slot that stay taken, beyond its positions
        self._keys: dict[int, int] = {}
        self._copies: dict[int, NDArray[np.uint8]] = {}
        #: Rows that were computed, and the seconds that this took.
        self.rows, self.seconds = 0, 0.0

    def decode(self, segments: list[Segment], rows: NDArray[Any]) -> memoryview | None:
        """Process rows; returns the hidden states as they travel, for `note_sent`; None at the end of the model.

        Raises
        ------
        ProtocolError
            If rows come before those that they follow.
        """
        for slot, position, n, _ in segments:
            filled = self._filled.get(slot, 0)
            if position < filled:  # the rest was tried only
                self._take_back(slot, position, filled - position)
            elif position > filled:
                raise ProtocolError(
                    f"A stage was given position {position} of a session of which it knows {filled} only."
                )
            self._filled[slot], self._rows[slot] = position + n, n
        begun = time.perf_counter()
        hidden = self.llama.decode(rows, segments)
        self.rows += len(rows)
        self.seconds += time.perf_counter() - begun
        return self._hidden_states.write(hidden) if hidden is not None else None

    def note_sent(self, segments: list[Segment], hidden: memoryview) -> None:
        """Keep what was sent, or could not be sent."""
        if self._kept is not None:
            self._kept.add(segments, hidden)

    def order(self, kind: Kind, segments: list[Segment]) -> None:
        """Do what every stage does between the same two micro-batches."""
        if kind == Kind.CLEAR:
            self.clear()
        for segment in segments:
            slot, number, n, _ = segment
            if kind == Kind.BEGIN:
                self._keys[slot] = key_of(segment)
            elif kind == Kind.AGAIN:
                self._go_back(slot, number)
            elif kind == Kind.RELEASE:
                self._release(slot)
            elif kind == Kind.KEEP:
                self._copies[number] = self.llama.save(slot)
                if self._kept is not None:
                    self._kept.copy(slot, number)
            elif kind == Kind.RESTORE:
                self._restore(slot, number, n)
            elif kind == Kind.FORGET:
                self._copies.pop(number, None)
                if self._kept is not None:
                    self._kept.forget(number)

    def clear(self) -> None:
        """Forget every session, but not the copies."""
        self._filled.clear()
        self._left.clear()
        self._keys.clear()
        if self._kept is not None:
            self._kept.clear()
        self.llama.clear()

    def held(self) -> list[Held]:
        """Return what there is of each session, for a pipeline that takes the place of a lost one."""
        kept = self._kept
        return [
            Held(
                self._keys.get(slot, 0),
                slot,
                n,
                kept.known(slot) if kept is not None else n,
                n + self._left.get(slot, 0),
            )
            for slot, n in list(self._filled.items())
        ]

    def go_on(self, recovery: Recovery | None) -> None:
        """Keep what goes on of earlier sessions, and no copies: a stage that is new has none."""
        for number in list(self._copies):
            self.order(Kind.FORGET, [Segment(0, number, 0)])
        going = {one.slot: one.key for one in recovery.sessions} if recovery is not None else {}
        if not going:
            self.clear()
            return
        self._keys = going
        for slot in [slot for slot in self._filled if slot not in going]:
            self._drop(slot)

    def sent(self, slot: int, n: int) -> Iterator[tuple[Segment, bytes]]:
        """Yield the first `n` positions of a session as they were sent. Raises OSError."""
        if self._kept is None:
            return
        try:
            for segment, data in self._kept.read(slot, n):
                # What was tried beyond is a part of the shape; where that does not matter, it would only leave a gap.
                rows = min(segment.rows, n - segment.position) if self._exact else segment.rows
                yield segment._replace(rows=rows), data[: rows * self._hidden_states.row_bytes]
        except OSError as exc:
            self._kept.lose(slot, str(exc))
            raise

    def _take_back(self, slot: int, n: int, beyond: int) -> None:
        """Forget the last `beyond` rows of a session, which has `n` positions then."""
        llama = self.llama
        # llama.cpp has the states after each of the last rows of one batch only, but would also take others for them.
        if llama.has_state and beyond > min(llama.rollback, self._rows.get(slot, 0) - 1):
            raise ProtocolError(f"A stage cannot take back {beyond} tokens of a session whose layers keep states.")
        llama.keep(slot, n)

    def _go_back(self, slot: int, n: int) -> None:
        """Forget what was on its way of a session when its pipeline was lost."""
        beyond = self._filled.get(slot, 0) - n
        if beyond <= 0:
            return
        if self._exact:
            self.llama.abandon(slot, n)
            self._left[slot] = self._left.get(slot, 0) + beyond
        else:
            self.llama.keep(slot, n)
        self._filled[slot] = n

    def _restore(self, slot: int, number: int, n: int) -> None:
        self.llama.restore(slot, self._copies[number])
        self.llama.keep(slot, n)
        self._filled[slot] = n
        if self._kept is not None:
            self._kept.restore(slot, number, n)

    def _release(self, slot: int) -> None:
        self._keys.pop(slot, None)
        self._drop(slot)
        if not self._filled:
            self.llama.clear()

    def _drop(self, slot: int) -> None:
        if self._kept is not None:
            self._kept.release(slot)
        if not self._exact:
            self._filled.pop(slot, None)
            self.llama.keep(slot, 0)
