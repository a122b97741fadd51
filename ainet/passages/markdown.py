"""Markdown: sections, named by the headings above them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from markdown_it import MarkdownIt

from ainet.passages.lines import passages_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ainet.storage.records import Passage


class Heading(NamedTuple):
    """A heading: its level from 1, its text, and its first line."""

    level: int
    text: str
    line: int


def headings_of(text: str) -> list[Heading]:
    """Return the headings of a Markdown text, not those within quotes and lists."""
    found = []
    tokens = _parser().parse(text)
    for i, token in enumerate(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map is not None:
            found.append(Heading(int(token.tag[1:]), tokens[i + 1].content, token.map[0] + 1))
    return found


def markdown_passages(text: str, *, cell: str = "", above: tuple[str, ...] = ()) -> Iterator[Passage]:
    """Yield the sections of a text.

    Parameters
    ----------
    above
        The headings under which the whole text stands.
    """
    lines = text.split("\n")
    path: list[Heading] = []
    begin = 1
    for heading in headings_of(text):
        yield from passages_of(lines, begin, heading.line - 1, kind="section", name=_name(above, path), cell=cell)
        path = [*(one for one in path if one.level < heading.level), heading]
        begin = heading.line
    yield from passages_of(lines, begin, len(lines), kind="section", name=_name(above, path), cell=cell)


def _name(above: tuple[str, ...], path: list[Heading]) -> str:
    return " > ".join([*above, *(one.text for one in path)])


@cache
def _parser() -> MarkdownIt:
    # Inline marks are of no interest, and take most of the time.
    return MarkdownIt("commonmark").disable(["emphasis", "link", "image", "autolink", "html_inline", "entity"])
