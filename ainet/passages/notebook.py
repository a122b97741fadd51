"""Notebooks: cells, and what they printed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.errors import UsageError
from ainet.passages.cells import cell_relations
from ainet.passages.lines import passages_of
from ainet.passages.markdown import headings_of, markdown_passages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ainet.storage.records import Passage

#: Characters of a cell's outputs that are kept: the first ones.
MOST_OUTPUT = 20_000
MOST_RUNS = 1 << 31


def notebook_passages(text: str) -> Iterator[Passage]:
    """Yield the passages of a notebook's JSON, format 4; raises `UsageError` for what is none."""
    try:
        notebook = json.loads(text)
    except ValueError as exc:
        raise UsageError(f"is not JSON ({exc})") from exc
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise UsageError("is no notebook of format 4: it has no cells")
    path: tuple[tuple[int, str], ...] = ()
    for number, cell in enumerate(cells):
        if not isinstance(cell, dict):
            continue
        source, name = _text(cell.get("source")), str(cell.get("id") or number)
        above = tuple(text for _, text in path)
        lines = source.split("\n")
        if cell.get("cell_type") == "markdown":
            headings = headings_of(source)
            if headings:  # it stands beside those above it, not below
                path = tuple(one for one in path if one[0] < headings[0].level)
            yield from markdown_passages(source, cell=name, above=tuple(text for _, text in path))
            for heading in headings:
                path = (*(one for one in path if one[0] < heading.level), (heading.level, heading.text))
        else:
            count = cell.get("execution_count")
            ran = count if isinstance(count, int) and 0 < count < MOST_RUNS else 0
            relations = tuple(cell_relations(source))
            for one in passages_of(lines, 1, len(lines), kind="cell", name=" > ".join(above), cell=name):
                yield msgspec.structs.replace(one, ran=ran, relations=relations)
            output = "\n".join(_outputs(cell))[:MOST_OUTPUT].split("\n")
            yield from passages_of(output, 1, len(output), kind="output", name=" > ".join(above), cell=name)


def _outputs(cell: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a cell printed, returned or failed with, as text."""
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else []:
        if not isinstance(output, dict):
            continue
        data = output.get("data")
        if output.get("output_type") == "stream":
            yield _text(output.get("text"))
        elif output.get("output_type") == "error":
            yield f"{output.get('ename')}: {output.get('evalue')}"
        elif isinstance(data, dict):
            yield _text(data.get("text/markdown") or data.get("text/plain"))


def _text(value: object) -> str:
    """Return a text that may be given as a list of its lines."""
    if isinstance(value, list):
        return "".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""
