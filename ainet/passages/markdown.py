"""Markdown: sections, named by the headings above them."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from markdown_it import MarkdownIt

from ainet.passages.lines import passages_of
from ainet.storage.identifiers import parts
from ainet.storage.records import Relation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ainet.storage.records import Passage


#: A name within backticks, called or not; a link to a file, not to a page of the web.
_CODE = re.compile(r"`(?P<name>[A-Za-z_][\w.]*\w)(?P<call>\([^`]*\))?`")
_LINK = re.compile(r"\]\((?P<path>(?![a-z]+:|#|/)[^)\s#]+)[^)]*\)")


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
        yield from _section(lines, begin, heading.line - 1, _name(above, path), cell)
        path = [*(one for one in path if one.level < heading.level), heading]
        begin = heading.line
    yield from _section(lines, begin, len(lines), _name(above, path), cell)


def _section(lines: list[str], first: int, last: int, name: str, cell: str) -> Iterator[Passage]:
    for one in passages_of(lines, first, last, kind="section", name=name, cell=cell):
        relations = dict.fromkeys(_relations(one.text))
        yield msgspec.structs.replace(one, relations=tuple(relations)) if relations else one


def _relations(text: str) -> Iterator[Relation]:
    """Yield the identifiers that a text mentions as code, and the files that it links to."""
    for match in _CODE.finditer(text):
        name = match["name"]
        if len(parts(name)) > 1 or "." in name or match["call"]:
            yield Relation("mentions", name if "." in name else f"?.{name}")
    for match in _LINK.finditer(text):
        yield Relation("links", match["path"])


def _name(above: tuple[str, ...], path: list[Heading]) -> str:
    return " > ".join([*above, *(one.text for one in path)])


@cache
def _parser() -> MarkdownIt:
    # Inline marks are of no interest, and take most of the time.
    return MarkdownIt("commonmark").disable(["emphasis", "link", "image", "autolink", "html_inline", "entity"])
