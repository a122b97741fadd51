"""How busy this device was in the last minute."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MINUTE = 60.0


class BusyTime:
    """Counts the time in which anything was done; what is done at the same time counts once.

    Parameters
    ----------
    clock
        Seconds; it never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running = 0
        self._since = 0.0
        self._past: deque[tuple[float, float]] = deque()

    @property
    def running(self) -> int:
        """The number of things that are being done."""
        return self._running

    def begin(self) -> None:
        """Note that something begins."""
        if not self._running:
            self._since = self._clock()
        self._running += 1

    def end(self) -> None:
        """Note that something has ended."""
        self._running -= 1
        if not self._running:
            self._past.append((self._since, self._clock()))
            self._forget()

    @property
    def share(self) -> float:
        """The part of the last minute in which anything was done."""
        self._forget()
        now = self._clock()
        begun = now - MINUTE
        past = sum(end - max(start, begun) for start, end in self._past)
        return min((past + (now - max(self._since, begun) if self._running else 0.0)) / MINUTE, 1.0)

    def _forget(self) -> None:
        begun = self._clock() - MINUTE
        while self._past and self._past[0][1] <= begun:
            self._past.popleft()
