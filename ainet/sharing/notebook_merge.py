"""Notebooks as shared documents: what changed on two sides since they were last equal, put together cell by cell."""

from __future__ import annotations

import copy
from typing import Any

Notebook = dict[str, Any]
Cell = dict[str, Any]

EMPTY: Notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def merge(base: Notebook, mine: Notebook, theirs: Notebook) -> Notebook:
    """Return `theirs` with what `mine` changed since both were `base`.

    Cells are told apart by their ids. A cell that both sides changed is as `mine` has it; one that a side changed and
    the other deleted stays.

    Parameters
    ----------
    base, mine, theirs
        Notebooks in the form of nbformat 4.5.
    """
    merged = copy.deepcopy(theirs)
    for key in mine.keys() - {"cells"}:
        if mine[key] != base.get(key):
            merged[key] = copy.deepcopy(mine[key])
    before, here, there = _by_id(base), _by_id(mine), _by_id(theirs)
    gone = {name for name in before.keys() - here.keys() if there.get(name) == before[name]}
    cells = [cell for cell in merged["cells"] if cell.get("id") not in gone]
    for i, cell in enumerate(mine["cells"]):
        name = cell.get("id")
        if cell == before.get(name):
            continue
        places = [k for k, one in enumerate(cells) if one.get("id") == name]
        if places:
            cells[places[0]] = copy.deepcopy(cell)
        else:
            previous = mine["cells"][i - 1].get("id") if i else None
            after = next(
                (k + 1 for k, one in enumerate(cells) if one.get("id") == previous), 0 if i == 0 else len(cells)
            )
            cells.insert(after, copy.deepcopy(cell))
    merged["cells"] = _in_order(cells, base, mine)
    return merged


def mark_runs(before: Notebook, after: Notebook, mark: dict[str, Any]) -> Notebook:
    """Return `after`, with `mark` in the metadata (``ainet``) of every cell that was run since `before`."""
    known = _by_id(before)
    marked = copy.deepcopy(after)
    for cell in marked["cells"]:
        if cell.get("cell_type") == "code" and cell.get("execution_count") is not None:
            earlier = known.get(cell.get("id"), {})
            if any(cell.get(key) != earlier.get(key) for key in ("execution_count", "outputs")):
                cell.setdefault("metadata", {})["ainet"] = dict(mark)
    return marked


def without_trust(notebook: Notebook) -> Notebook:
    """Return the notebook without the marks that its user trusts what cells show, which are for this user alone."""
    plain = copy.deepcopy(notebook)
    for cell in plain["cells"]:
        cell.get("metadata", {}).pop("trusted", None)
    return plain


def with_trust(notebook: Notebook, mine: Notebook) -> Notebook:
    """Return the notebook with the marks that `mine` has on cells which are the same in both."""
    trusted = {
        cell.get("id"): plain
        for cell, plain in zip(mine["cells"], without_trust(mine)["cells"], strict=True)
        if cell.get("metadata", {}).get("trusted")
    }
    marked = copy.deepcopy(notebook)
    for cell in marked["cells"]:
        if cell.get("id") in trusted and trusted[cell.get("id")] == cell:
            cell.setdefault("metadata", {})["trusted"] = True
    return marked


def _in_order(cells: list[Cell], base: Notebook, mine: Notebook) -> list[Cell]:
    """Return the cells as `mine` orders them, if it moved any; what only the others have stays by its neighbour."""
    ids = [cell.get("id") for cell in mine["cells"]]
    known = set(ids)
    common = [cell.get("id") for cell in base["cells"] if cell.get("id") in known]
    before = set(common)
    if [name for name in ids if name in before] == common:
        return cells  # nothing was moved
    present = {cell.get("id"): cell for cell in cells}
    ordered = [present[name] for name in ids if name in present]
    for i, cell in enumerate(cells):
        if cell.get("id") not in known:
            previous = cells[i - 1].get("id") if i else None
            at = next((k + 1 for k, one in enumerate(ordered) if one.get("id") == previous), 0)
            ordered.insert(at, cell)
    return ordered


def _by_id(notebook: Notebook) -> dict[Any, Cell]:
    return {cell.get("id"): cell for cell in notebook["cells"]}
