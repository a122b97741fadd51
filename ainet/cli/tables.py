"""Plain tables for terminals and cells."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING

from ainet.units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


#: A number, a size, a range of layers, or nothing.
_NUMBER = re.compile(r"[\d.]+( [kMGT]?B)?|\d+–\d+|–")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return `rows` under `headings`, each column as wide as its longest text, numbers to the right."""
    cells = [[_show(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    numeric = [all(map(_NUMBER.fullmatch, column)) for column in zip(*cells, strict=True)] or [False] * len(headings)
    lines = [headings, ["─" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def shortened(text: str, most: int) -> str:
    """Return a text of at most this many letters: what is left out is in its middle."""
    if len(text) <= most:
        return text
    head = (most - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def bytes_or_dash(count: float | None) -> str:
    """Return a number of bytes in words; a dash where there is none."""
    return "–" if count is None else show_bytes(count)


def ago(when: float | None) -> str | None:
    """Return how long ago a time (Unix seconds) is."""
    if when is None:
        return None
    seconds = max(0.0, time.time() - when)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "now" if seconds < 5 else f"{seconds:.0f} s ago"


def _show(value: object) -> str:
    if value is None or value == "":
        return "–"
    return f"{value:.3g}" if isinstance(value, float) and not math.isinf(value) else str(value)
