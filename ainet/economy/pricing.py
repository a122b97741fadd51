"""Prices: a function of how busy a device is, without a state that would have to settle."""

from __future__ import annotations

import math
from typing import NamedTuple

from ainet.economy.credits import HIGHEST_PRICE, LOWEST_PRICE, UNIT_PRICE

#: A wait of this length (s) adds as much as a device that is busy all the time.
LONG_WAIT = 30.0
#: A device that is busy half of the time, and lets nobody wait, asks the base price.
HALF = 0.5


class Load(NamedTuple):
    """How busy a device was in the last minute.

    Attributes
    ----------
    busy
        The part of the time in which it worked, from 0 to 1.
    wait
        Seconds for which a session that is bought now waits.
    """

    busy: float
    wait: float = 0.0


class Quote(NamedTuple):
    """A price, in thousandths of what is computed, and why."""

    price: int
    reason: str


class DynamicPricing:
    """The price of a device's work.

    Parameters
    ----------
    base
        The price of a device that is busy half of the time (thousandths).
    floor, cap
        The lowest and the highest price.
    is_fixed
        Whether the owner has named the price.
    """

    def __init__(
        self, base: int = UNIT_PRICE, *, floor: int = LOWEST_PRICE, cap: int = HIGHEST_PRICE, is_fixed: bool = False
    ) -> None:
        if not LOWEST_PRICE <= floor <= base <= cap <= HIGHEST_PRICE:
            raise ValueError("the price is not between its floor and its cap")
        self._base, self._floor, self._cap, self._is_fixed = base, floor, cap, is_fixed

    def quote(self, load: Load) -> Quote:
        """Return the price at this load."""
        if self._is_fixed:
            return Quote(self._base, "its owner has named this price")
        busy, wait = min(max(load.busy, 0.0), 1.0), max(load.wait, 0.0)
        asked = round(self._base * math.exp(busy + min(1.0, wait / LONG_WAIT) - HALF))
        price = min(max(asked, self._floor), self._cap)
        reason = f"busy for {busy:.0%} of the last minute"
        if wait >= 1:
            reason += f", {wait:.0f} s to wait"
        if price != asked:
            reason += ", at the cap" if price == self._cap else ", at the floor"
        return Quote(price, reason)
