"""HTML: sections and definitions, without what every page of a site has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from selectolax.lexbor import LexborHTMLParser

from ainet.passages.lines import passages_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selectolax.lexbor import LexborNode

    from ainet.storage.records import Passage

#: Says nothing, or the same on every page.
LEFT_OUT = frozenset(
    ("script", "style", "template", "noscript", "svg", "nav", "footer", "header", "form", "button", "head")
)
ROLES = frozenset(("navigation", "search", "banner", "contentinfo"))
HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
#: Text goes on in the same line only within others.
INLINE = frozenset(
    ("a", "abbr", "b", "cite", "code", "em", "i", "kbd", "mark", "q", "s", "small", "span", "strong", "sub")
)
INLINE_TOO = frozenset(("sup", "td", "th", "time", "tt", "u", "var", "label", "dfn", "samp", "font", "-text"))
#: The sign with which generated documentation links to a heading.
PILCROW = "¶"
#: Elements within each other that are followed.
DEEPEST = 200


class _Page:
    """Collects the passages of a page; `anchor` is the id of what is collected now."""

    def __init__(self) -> None:
        self.found: list[Passage] = []
        self._lines = [""]
        self._path: list[tuple[int, str]] = []
        self._definition = self._anchor = ""

    def walk(self, node: LexborNode, depth: int = 0) -> None:
        """Take an element and all that is in it."""
        tag = node.tag or ""
        if tag == "-text":
            self._add(node.text_content or "", is_code=False)
        elif tag in LEFT_OUT or depth > DEEPEST or node.attributes.get("role") in ROLES:
            return
        elif tag == "br":
            self._lines.append("")
        elif tag == "pre":
            self._break()
            self._add(node.text(), is_code=True)
            self._break()
        elif tag in HEADINGS:
            self._flush()
            level, text = int(tag[1]), " ".join(node.text().split()).removesuffix(PILCROW)
            self._path = [*((at, name) for at, name in self._path if at < level), (level, text)]
            parent = node.parent
            self._anchor = node.id or (parent.id if parent is not None and parent.tag == "section" else "") or ""
            self._add(text, is_code=False)
            self._break()
        else:
            self._element(node, tag, depth)

    def finish(self) -> list[Passage]:
        """Return what was collected."""
        self._flush()
        return self.found

    def _element(self, node: LexborNode, tag: str, depth: int) -> None:
        outer = self._definition, self._anchor
        if tag == "dt" and node.id:
            self._flush()
            self._definition = self._anchor = node.id
        is_block = tag not in INLINE and tag not in INLINE_TOO
        if is_block:
            self._break()
        child = node.first_child
        while child is not None:
            self.walk(child, depth + 1)
            child = child.next
        if is_block:
            self._break()
        elif tag in ("td", "th"):
            self._lines[-1] += " "
        if tag == "dl" and (self._definition, self._anchor) != outer:
            self._flush()
            self._definition, self._anchor = outer

    def _add(self, text: str, *, is_code: bool) -> None:
        text = text.replace(PILCROW, "")
        if is_code:
            first, *others = text.split("\n")
            self._lines[-1] += first
            self._lines += others
            return
        words = " ".join(text.split())
        before = self._lines[-1]
        space = " " if before and (text[:1].isspace() and not before.endswith(" ")) else ""
        self._lines[-1] += space + words + (" " if words and text[-1:].isspace() else "")

    def _break(self) -> None:
        if self._lines[-1]:
            self._lines.append("")

    def _flush(self) -> None:
        name = self._definition or " > ".join(text for _, text in self._path)
        kind = "definition" if self._definition else "section"
        lines = [line.rstrip() for line in self._lines]
        for one in passages_of(lines, 1, len(lines), kind=kind, name=name, cell=self._anchor):
            self.found.append(msgspec.structs.replace(one, first_line=0, last_line=0))  # of the text, not of the file
        self._lines = [""]


def html_passages(text: str) -> Iterator[Passage]:
    """Yield the passages of a page."""
    page = _Page()
    body = LexborHTMLParser(text).body
    if body is not None:
        page.walk(body)
    yield from page.finish()
