"""The texts of cells in which several people type at the same time."""

from __future__ import annotations

import copy
from itertools import takewhile
from operator import eq
from typing import TYPE_CHECKING, NamedTuple

from pycrdt import Text

if TYPE_CHECKING:
    from jupyter_ydoc import YNotebook

    from ainet.storage.notebook import Notebook


class Change(NamedTuple):
    """What was done to a text: what was between `start` and `end` is now `text`."""

    start: int
    end: int
    text: str


def change(before: str, after: str) -> Change:
    """Return the one change that makes `after` of `before`."""
    start = _common(before, after)
    same = _common(before[start:][::-1], after[start:][::-1])
    return Change(start, len(before) - same, after[start : len(after) - same])


def merge_texts(base: str, mine: str, theirs: str) -> str:
    """Return `theirs` with what `mine` changed since both were `base`; `mine` where both changed the same part."""
    if mine == theirs:
        return mine
    here, there = change(base, mine), change(base, theirs)
    if there.end <= here.start:
        moved = len(theirs) - len(base)
        return theirs[: here.start + moved] + here.text + theirs[here.end + moved :]
    if here.end <= there.start:
        return theirs[: here.start] + here.text + theirs[here.end :]
    return mine


def with_their_texts(base: Notebook, mine: Notebook, theirs: Notebook) -> Notebook:
    """Return `mine` with what `theirs` changed in the texts of cells since both were `base`."""
    before, there = _texts(base), _texts(theirs)
    both = copy.deepcopy(mine)
    for cell in both["cells"]:
        name = cell.get("id")
        if name in before and name in there and cell["source"] != before[name]:
            cell["source"] = merge_texts(before[name], cell["source"], there[name])
    return both


def put(notebook: Notebook, view: YNotebook) -> None:
    """Make a Yjs document equal to the notebook, of texts only what differs.

    `YNotebook.set` writes the whole text of a cell anew: where somebody else types in it at the same time, it
    would then be there twice.
    """
    texts = _texts(notebook)
    with view.ydoc.transaction():
        for cell in view.ycells:
            text, wanted = cell.get("source"), texts.get(cell.get("id"))
            if isinstance(text, Text) and wanted is not None and str(text) != wanted:
                _change_text(text, wanted)
        view.set(notebook)


def _change_text(text: Text, wanted: str) -> None:
    before = str(text)
    start, end, new = change(before, wanted)
    # A text is a sequence of bytes for pycrdt.
    text[len(before[:start].encode()) : len(before[:end].encode())] = new


def _common(one: str, other: str) -> int:
    """Return the length of the beginning that both have."""
    return sum(takewhile(bool, map(eq, one, other)))


def _texts(notebook: Notebook) -> dict[str, str]:
    return {cell["id"]: cell["source"] for cell in notebook["cells"] if "id" in cell}
