"""Sessions of a lost pipeline that can go on in the one that takes its place."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ainet.stages.protocol.recovery import Continued, Recovery
    from ainet.stages.ring.ring import Ring
    from ainet.stages.sessions.session import Session


class Recovered:
    """Waits for those who asked for them; what nobody claims is given up.

    Parameters
    ----------
    ring
        Reaches the first stage.
    n_ubatch
        Tokens of a chunk.
    """

    def __init__(self, ring: Ring, n_ubatch: int) -> None:
        self._ring = ring
        self._n_ubatch = n_ubatch
        self._sessions: dict[int, Continued] = {}  # by their keys
        self._until = 0.0
        self._ending: dict[int, int] = {}  # cells of those that were given up, by slot
        self._first_is_new = False

    def start(self, recovery: Recovery, seconds: float) -> None:
        """Let the sessions of a lost pipeline be claimed for this long."""
        self._sessions = {one.key: one for one in recovery.sessions}
        self._until = time.monotonic() + seconds
        self._first_is_new = 0 in recovery.new

    def __contains__(self, key: int) -> bool:
        return key in self._sessions

    def __bool__(self) -> bool:
        """Whether any may still be claimed."""
        return bool(self._sessions)

    @property
    def cells(self) -> int:
        """Cells that they have, also those that are about to end."""
        return sum(self._ending.values()) + sum(one.cells for one in self._sessions.values())

    def cells_of(self, key: int) -> int:
        """Return the cells of one of them."""
        return self._sessions[key].cells

    def known(self, session: Session) -> int:
        """Return how many positions of a session need not be computed by stages that are left; 0 for all others."""
        there = self._sessions.get(session.key)
        if there is None:
            return 0
        if session.generated:
            known = len(session.prompt) + len(session.generated) - 1
        else:  # whole chunks of its prompt, as they would be computed again
            known = min(there.known, len(session.prompt) - 1)
            known -= known % self._n_ubatch
        return known if known <= there.known else 0

    def is_computed_again(self, known: int) -> bool:
        """Tell whether the first stage computes what comes before the last token, if stages know this much of it."""
        return not known or self._first_is_new

    def claim(self, key: int) -> int:
        """Return the slot of a session that goes on."""
        return self._sessions.pop(key).slot

    def give_up(self, key: int) -> None:
        """Have the stages forget a session."""
        there = self._sessions.pop(key)
        self._ending[there.slot] = there.cells
        self._ring.release(there.slot)

    def give_up_unclaimed(self) -> None:
        """Give up the sessions for which nobody has come in time."""
        if self._sessions and time.monotonic() > self._until:
            for key in list(self._sessions):
                self.give_up(key)

    def released(self, slot: int) -> int | None:
        """Return the cells of a session that was given up and that every stage has forgotten; None: it is none."""
        return self._ending.pop(slot, None)
