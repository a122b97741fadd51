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
        self._is_held = False
        self._since = 0.0
        self._past: deque[tuple[float, float]] = deque()

    @property
    def running(self) -> int:
        """The number of things that are being done."""
        return self._running

    def begin(self) -> None:
        """Note that something begins."""
        self._running += 1
        if self._running == 1 and not self._is_held:
            self._since = self._clock()

    def end(self) -> None:
        """Note that something has ended."""
        self._running -= 1
        if not self._running and not self._is_held:
            self._count()

    def hold(self, *, is_held: bool) -> None:
        """Count nothing for a while, since what is being done waits for something else; or take that back."""
        if is_held == self._is_held:
            return
        self._is_held = is_held
        if self._running and is_held:
            self._count()
        elif self._running:
            self._since = self._clock()

    @property
    def share(self) -> float:
        """The part of the last minute in which anything was done."""
        self._forget()
        now = self._clock()
        begun = now - MINUTE
        past = sum(end - max(start, begun) for start, end in self._past)
        goes_on = self._running and not self._is_held
        return min((past + (now - max(self._since, begun) if goes_on else 0.0)) / MINUTE, 1.0)

    def _count(self) -> None:
        self._past.append((self._since, self._clock()))
        self._forget()

    def _forget(self) -> None:
        begun = self._clock() - MINUTE
        while self._past and self._past[0][1] <= begun:
            self._past.popleft()
