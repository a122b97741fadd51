"""Credits as people see them: minutes of the device that worked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ainet.economy.balance import DAY_MS

if TYPE_CHECKING:
    from ainet.economy.order import Order

MINUTE, HOUR, YEAR = 60, 3600, 365 * 86_400


def seconds_of(credits_: int, pace: int) -> float:
    """Return for how long a device works that computes so many credits a second; 0 where that is not known."""
    return credits_ / pace if pace > 0 else 0.0


def span(seconds: float) -> str:
    """Return a time as people say it: ``40 seconds``, ``1.9 minutes``, ``31 minutes``, ``2.5 hours``."""
    if seconds < MINUTE:
        amount, unit = seconds, "second"
    elif seconds < 2 * HOUR:
        amount, unit = seconds / MINUTE, "minute"
    else:
        amount, unit = seconds / HOUR, "hour"
    shown = f"{amount:.0f}" if amount >= 10 or unit == "second" else f"{amount:.1f}".removesuffix(".0")
    return f"{shown} {unit}{'' if shown == '1' else 's'}"


def beyond_allowance(name: str, order: Order, left: int, daily: int, pace: int) -> str:
    """Return why an answer cannot be had now, and what can be.

    Parameters
    ----------
    name
        The device that would answer.
    left, daily
        Credits that can be had now, and that come back in a day.
    pace
        Credits that the device computes in a second.
    """
    gives = f"{name} gives you {span(seconds_of(daily, pace))} a day" if daily else f"{name} gives nothing for nothing"
    lacks = f"{span(seconds_of(left, pace))} are left, this answer may take {span(seconds_of(order.whole, pace))}."
    fits = order.rate.tokens_for(left, order.prompt)
    if fits > 0:
        return f"{gives}; {lacks} `--max-tokens {fits}` fits."
    if daily:
        seconds = (order.rate.cost(order.prompt, 1) - left) * DAY_MS / daily / 1000
        if seconds > YEAR:
            return f"{gives}; {lacks}"
        form = "%H:%M" if seconds < 12 * HOUR else "%A %H:%M"
        return f"{gives}; {lacks} A first word fits at {time.strftime(form, time.localtime(time.time() + seconds))}."
    return f"{gives}; {lacks}"
