"""Progress of several stages at once, as one: that of the stage which has most to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ainet.hosting.requests import LoadProgress


class Slowest:
    """Tells of the report that is least far, whenever there is a new one.

    Parameters
    ----------
    tell
        Hears it.
    """

    def __init__(self, tell: Callable[[LoadProgress], None]) -> None:
        self._tell = tell
        self._latest: dict[int, LoadProgress] = {}
        self._told: LoadProgress | None = None

    def of(self, stage: int) -> Callable[[LoadProgress], None]:
        """Return what the stage with this first layer calls."""

        def report(item: LoadProgress) -> None:
            self._latest[stage] = item
            least = min(self._latest.values(), key=_part)
            if least != self._told:
                self._told = least
                self._tell(least)

        return report

    def done(self, stage: int) -> None:
        """Wait no longer for the stage with this first layer."""
        self._latest.pop(stage, None)


def _part(item: LoadProgress) -> float:
    return item.done / item.total if item.total else 0.0
