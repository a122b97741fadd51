"""Sizes in bytes and times, as people write and read them."""

from __future__ import annotations

import re

from ainet.errors import UsageError

DAY = 86400.0  # seconds
MOST_DAYS = 3650
UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}


def parse_bytes(text: str) -> int:
    """Return the number of bytes in a size like ``"1.5GB"``, ``"512MiB"`` or ``"1000000"``."""
    cleaned = text.strip().upper().replace(" ", "")
    digits = cleaned.rstrip("KMGTIB")
    try:
        value = float(digits) * UNITS[cleaned[len(digits) :]]
    except (ValueError, KeyError) as exc:
        raise UsageError(f"{text!r} is not a size. Write a number with a unit, such as 512MB or 4GB.") from exc
    if not 0 <= value < 2**60:
        raise UsageError(f"{text!r} is not a possible size.")
    return int(value)


_TIMES = {"s": 1, "m": 60, "h": 3600}


def parse_seconds(text: str) -> float:
    """Return the seconds in a time of at most a day, like ``"90s"``, ``"30m"`` or ``"2h"``."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*([smh])", text.strip())
    seconds = float(found[1]) * _TIMES[found[2]] if found else -1.0
    if not 0 <= seconds <= DAY:
        raise UsageError(f"{text[:40]!r} is not a time. Write minutes or hours, at most a day, such as 30m or 2h.")
    return seconds


def parse_days(text: str) -> float:
    """Return the seconds in a time of at most ten years, like ``"30d"`` or ``"12h"``."""
    found = re.fullmatch(r"([0-9]{1,6})\s*([hd])", text.strip())
    seconds = int(found[1]) * (DAY if found[2] == "d" else 3600.0) if found else 0.0
    if not 0 < seconds <= MOST_DAYS * DAY:
        raise UsageError(f"{text[:40]!r} is not a time. Write hours or days, at most {MOST_DAYS}d, such as 30d.")
    return seconds


def show_seconds(seconds: float) -> str:
    """Return a time in words, in seconds, minutes or hours."""
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 10 or not seconds else f"{seconds:.1f} s"
    return f"{seconds / 60:.3g} min" if seconds < 3570 else f"{seconds / 3600:.3g} h"


def show_bytes(count: float) -> str:
    """Return `count` bytes in words, with decimal units and three significant digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 100 else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
