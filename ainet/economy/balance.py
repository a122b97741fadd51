"""What another device may have of this one: what it is owed, and an allowance that refills.

All numbers are whole, times are milliseconds of a clock that only goes forward, and nothing here reads a clock or
writes a file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

DAY_MS = 86_400_000


class Allowance(NamedTuple):
    """What a device gives away.

    Attributes
    ----------
    daily
        Credits that come back in a day.
    saved
        Credits that may be saved up.
    grows_to
        The limit up to which more may be saved up by who gave much: a quarter of that.
    """

    daily: int
    saved: int
    grows_to: int

    def cap(self, received: int) -> int:
        """Return what may be saved up by somebody who gave this much."""
        return max(self.saved, min(self.saved + received // 4, self.grows_to))


@dataclass(frozen=True)
class Balance:
    """Counters between this device and another one, in credits.

    Attributes
    ----------
    acknowledged, acknowledged_gifts
        What the other one signed in all for what it received, and the part of it that is gifts.
    signed, signed_gifts
        What this device signed for what it received, gifts included, which are owed like work; and the part that is
        gifts.
    written_off
        What the other one received and did not acknowledge. What it acknowledges late is taken off again.
    leaked
        What was given away as time went by.
    begun_at
        The level at which it began.
    moment
        When leaking was counted last (ms).
    """

    acknowledged: int = 0
    acknowledged_gifts: int = 0
    signed: int = 0
    signed_gifts: int = 0
    written_off: int = 0
    leaked: int = 0
    begun_at: int = 0
    moment: int = 0

    @property
    def level(self) -> int:
        """What the other one had beyond what it gave and what was given away; negative where it is owed."""
        had = self.begun_at + self.acknowledged - self.acknowledged_gifts + self.written_off
        return had - self.signed - self.leaked

    @property
    def is_untouched(self) -> bool:
        """Whether neither side ever had anything."""
        return not (self.acknowledged or self.signed or self.written_off or self.leaked)

    @property
    def owed(self) -> int:
        """What this device owes the other one."""
        return max(-self.level, 0)

    def left(self, allowance: Allowance) -> int:
        """Return what the other one may have now."""
        return max(allowance.cap(self.signed - self.signed_gifts) - self.level, 0)

    def at(self, moment: int, allowance: Allowance) -> Balance:
        """Return the balance at a later moment; at an earlier one nothing changes."""
        if moment <= self.moment:
            return self
        if allowance.daily <= 0 or self.level <= 0:
            return replace(self, moment=moment)
        leaked = (moment - self.moment) * allowance.daily // DAY_MS
        if leaked >= self.level:
            return replace(self, leaked=self.leaked + self.level, moment=moment)
        # What is less than a credit stays to be counted.
        counted = -(-leaked * DAY_MS // allowance.daily)
        return replace(self, leaked=self.leaked + leaked, moment=self.moment + counted)

    def scaled(self, before: Allowance, allowance: Allowance) -> Balance:
        """Return the balance under another allowance: what was not saved up yet is the same part of it."""
        if not before.saved or allowance.saved == before.saved:
            return self
        rest = max(self.begun_at - self.leaked, 0)
        return replace(self, begun_at=self.begun_at - rest + rest * allowance.saved // before.saved)

    @classmethod
    def new(cls, moment: int, allowance: Allowance) -> Balance:
        """Return that of a device that was never met: it may have a day's part at once."""
        return cls(begun_at=max(allowance.saved - allowance.daily, 0), moment=moment)
