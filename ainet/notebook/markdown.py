"""Model output as Markdown that cannot run code or call home.

Jupyter front ends sanitise the HTML within Markdown only in outputs that they do not trust, and they trust what a cell
has just written. What a model says may repeat what somebody else wrote (a document, a web page), so tags, images and
links other than to web pages are taken apart by a zero-width space: it looks the same, also in inline code, and no
reader of Markdown or HTML finds a tag there. Fenced code stays exactly as it is, so that it can be copied.
"""

from __future__ import annotations

import re

ZERO_WIDTH_SPACE = "\u200b"
#: What begins a tag, a comment or an autolink; an image; a link to anything but a web page; a link's definition.
_ACTIVE = re.compile(r"<(?=[A-Za-z/!?])|!(?=\[)|\](?=\((?!https?://))|\](?=:)", re.IGNORECASE)
#: A fence of backticks (CommonMark 4.5); the information string holds none.
_FENCE = re.compile(r"(?P<indent> {0,3})(?P<fence>`{3,})(?P<rest>[^`]*)")


def harmless(text: str) -> str:
    """Return Markdown that looks like `text` and contains no HTML, no image and no link that executes."""
    lines = text.split("\n")
    code = _fenced_lines(lines)
    return "\n".join(line if number in code else _take_apart(line) for number, line in enumerate(lines))


def _take_apart(line: str) -> str:
    return _ACTIVE.sub(lambda match: match.group() + ZERO_WIDTH_SPACE, line)


def _fenced_lines(lines: list[str]) -> set[int]:
    """Return the numbers of the lines that every reader of Markdown takes for the inside of fenced code.

    Only plain fences count: closed, without indentation, the closing one equal to the opening one. A fence of tildes
    anywhere makes the whole text doubtful, because readers differ in what its information string may hold. So does
    any fence that is not plain when there is a formula: JupyterLab cuts out formulas first, and knows plain ones only.
    """
    inside: set[int] = set()
    opened: re.Match[str] | None = None
    begin = 0
    plain = True
    for number, line in enumerate(lines):
        match = _FENCE.fullmatch(line)
        if match is None:
            continue
        plain &= not match["indent"]
        if opened is None:
            opened, begin = match, number + 1
        elif len(match["fence"]) >= len(opened["fence"]) and not match["rest"].strip():
            if match["fence"] == opened["fence"] and not (match["rest"] or match["indent"] or opened["indent"]):
                inside.update(range(begin, number))
            else:
                plain = False
            opened = None
    text = "\n".join(lines)
    return inside if "~~~" not in text and (plain or "$" not in text) else set()
