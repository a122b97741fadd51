"""How far away the other end of a link is, by the time that answers take."""

from __future__ import annotations

import time
from collections import deque

KEPT = 16  # round trips of which the quickest says how far away the peer is


class RoundTrips:
    """Measured round trips.

    Parameters
    ----------
    longest
        Seconds after which an answer means nothing any more.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._last: deque[float] = deque(maxlen=KEPT)
        #: Smoothed (s); None until the first one.
        self.smoothed: float | None = None

    def stamp(self) -> int:
        """Return what the other end is to send back."""
        return time.perf_counter_ns() // 1000

    def note(self, stamp: int) -> None:
        """Take note of a stamp that came back; it is what the peer says."""
        measured = (self.stamp() - stamp) / 1e6
        if 0 <= measured < self._longest:
            self._last.append(measured)
            before = self.smoothed if self.smoothed is not None else measured
            self.smoothed = before + 0.125 * (measured - before)  # as RFC 6298 smoothes it

    @property
    def distance(self) -> float | None:
        """Seconds one way, as the quickest of the last ones says: the others waited for busy processors."""
        return min(self._last) / 2 if self._last else None
