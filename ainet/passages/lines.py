"""Ranges of lines, and passages of a size that can be read and cited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ainet.storage.records import Passage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Most lines and characters of a passage.
MOST_LINES, MOST_CHARACTERS = 60, 4000
#: A long range is cut at a blank line, if there is one in this part of a passage's end.
LOOK_BACK = 20


def passages_of(
    lines: Sequence[str], first: int, last: int, *, kind: str, name: str = "", cell: str = ""
) -> Iterator[Passage]:
    """Yield passages with the lines from `first` to `last`, both counted from 1; blank ones at the ends are left out.

    Lines that are too long for a passage are cut into several passages with the same number.
    """
    while first <= last:
        if not lines[first - 1].strip():
            first += 1
            continue
        end = _end(lines, first, last)
        following = end + 1
        while not lines[end - 1].strip():
            end -= 1
        text = "\n".join(lines[first - 1 : end])
        for i in range(0, len(text), MOST_CHARACTERS):
            yield Passage(text[i : i + MOST_CHARACTERS], kind, name, first, end, cell)
        first = following


def _end(lines: Sequence[str], first: int, last: int) -> int:
    """Return the last line of the passage that begins with `first`."""
    end, size = first, len(lines[first - 1])
    while end < last and end - first + 1 < MOST_LINES and size + 1 + len(lines[end]) <= MOST_CHARACTERS:
        size += 1 + len(lines[end])
        end += 1
    if end < last:
        for i in range(end, max(first, end - LOOK_BACK), -1):
            if not lines[i - 1].strip():
                return i
    return end
