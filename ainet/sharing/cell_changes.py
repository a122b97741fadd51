"""Cells that several people change at the same time: texts and outputs, of which only what differs is written."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import takewhile
from operator import eq
from typing import TYPE_CHECKING, Any, NamedTuple

from pycrdt import Array, Map, Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jupyter_ydoc import YNotebook

    from ainet.sharing.notebook_merge import Cell, Notebook


class Change(NamedTuple):
    """A change of a text: the part between `start` and `end` is now `text`."""

    start: int
    end: int
    text: str


@dataclass
class Stretch:
    """Lines from `begin` to before `end`, and what each side did in them."""

    begin: int
    end: int
    mine: list[Change]
    theirs: list[Change]


def change(before: str, after: str) -> Change:
    """Return the one change that makes `after` of `before`."""
    start = _common(before, after)
    same = _common(before[start:][::-1], after[start:][::-1])
    return Change(start, len(before) - same, after[start : len(after) - same])


def merge_texts(base: str, mine: str, theirs: str) -> str:
    """Return `theirs` with what `mine` changed since both were `base`, line by line.

    Of lines that both changed, what each side changed in one stretch; `mine` where these stretches overlap.
    """
    lines = base.splitlines(keepends=True)
    merged, done = [], 0
    for stretch in _stretches(_changed_lines(lines, mine), _changed_lines(lines, theirs)):
        before = "".join(lines[stretch.begin : stretch.end])
        here, there = (_changed(lines, stretch, changes) for changes in (stretch.mine, stretch.theirs))
        merged += [*lines[done : stretch.begin], _merge_stretch(before, here, there)]
        done = stretch.end
    return "".join([*merged, *lines[done:]])


def with_their_changes(base: Notebook, mine: Notebook, theirs: Notebook) -> Notebook:
    """Return `mine` with what `theirs` changed in cells that both changed since both were `base`."""
    before, there = _by_id(base), _by_id(theirs)
    both = copy.deepcopy(mine)
    for cell in both["cells"]:
        earlier, other = before.get(cell.get("id")), there.get(cell.get("id"))
        if earlier is not None and other is not None and cell != earlier:
            _take_changes(cell, earlier, other)
    return both


def put(notebook: Notebook, view: YNotebook) -> None:
    """Make a Yjs document equal to the notebook; of texts and outputs only what differs is written.

    `YNotebook.set` writes the whole text of a cell anew, and the whole cell where it prints: what somebody else types
    in it at the same time would then be there twice, or not at all.
    """
    wanted = _by_id(notebook)
    with view.ydoc.transaction():
        for cell in view.ycells:
            new = wanted.get(cell.get("id"), {})
            text, outputs = cell.get("source"), cell.get("outputs")
            if isinstance(text, Text) and isinstance(new.get("source"), str):
                _change_text(text, new["source"])
            if isinstance(outputs, Array) and "outputs" in new:
                _change_outputs(outputs, new["outputs"])
        view.set(notebook)


def _take_changes(cell: Cell, base: Cell, theirs: Cell) -> None:
    if cell.get("cell_type") == base.get("cell_type") == theirs.get("cell_type"):
        for key in cell.keys() & base.keys() & theirs.keys():
            if cell[key] == base[key]:
                cell[key] = copy.deepcopy(theirs[key])
    texts = [one["source"] for one in (base, cell, theirs) if isinstance(one.get("source"), str)]
    if len(texts) == 3:
        cell["source"] = merge_texts(*texts)


def _changed_lines(lines: list[str], text: str) -> list[Change]:
    """Return what makes `text` of the lines; `start` and `end` count those."""
    new = text.splitlines(keepends=True)
    found = SequenceMatcher(None, lines, new, autojunk=False).get_opcodes()
    return [Change(begin, end, "".join(new[i:j])) for what, begin, end, i, j in found if what != "equal"]


def _stretches(mine: list[Change], theirs: list[Change]) -> list[Stretch]:
    """Return the stretches of lines that were changed: those of both sides that overlap, or begin as one, are one."""
    found: list[Stretch] = []
    for one, is_mine in sorted([*((one, True) for one in mine), *((one, False) for one in theirs)]):
        last = found[-1] if found else None
        if last is None or (one.start >= last.end and not one.start == one.end == last.begin):
            last = Stretch(one.start, one.end, [], [])
            found.append(last)
        last.end = max(last.end, one.end)
        (last.mine if is_mine else last.theirs).append(one)
    return found


def _changed(lines: list[str], stretch: Stretch, changes: list[Change]) -> str:
    """Return the lines of a stretch after the changes of one side."""
    parts, done = [], stretch.begin
    for one in changes:
        parts += [*lines[done : one.start], one.text]
        done = one.end
    return "".join([*parts, *lines[done : stretch.end]])


def _merge_stretch(base: str, mine: str, theirs: str) -> str:
    if mine == theirs:
        return mine
    here, there = change(base, mine), change(base, theirs)
    if there.end <= here.start:
        moved = len(theirs) - len(base)
        return theirs[: here.start + moved] + here.text + theirs[here.end + moved :]
    if here.end <= there.start:
        return theirs[: here.start] + here.text + theirs[here.end :]
    return mine


def _change_text(text: Text, wanted: str) -> None:
    before = str(text)
    if before != wanted:
        start, end, new = change(before, wanted)
        # A text is a sequence of bytes for pycrdt.
        text[len(before[:start].encode()) : len(before[:end].encode())] = new


def _change_outputs(outputs: Array[Any], wanted: list[dict[str, Any]]) -> None:
    before = outputs.to_py() or []
    same = _common(before, wanted)
    if same < min(len(before), len(wanted)) and before[same] | {"text": ""} == wanted[same] | {"text": ""}:
        text, new = outputs[same].get("text"), wanted[same].get("text")
        if isinstance(text, Text) and isinstance(new, str):  # a stream that goes on
            _change_text(text, new)
            same += 1
    if same < len(before):
        del outputs[same:]
    outputs.extend([_output(output) for output in wanted[same:]])


def _output(output: dict[str, Any]) -> Map[Any]:
    """Return an output as `YNotebook` has it."""
    if output.get("output_type") != "stream":
        return Map(copy.deepcopy(output))
    return Map(output | {"text": Text("".join(output.get("text", "")))})


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return the length of the beginning that both have."""
    return sum(takewhile(bool, map(eq, one, other)))


def _by_id(notebook: Notebook) -> dict[str, Cell]:
    return {cell["id"]: cell for cell in notebook["cells"] if "id" in cell}
