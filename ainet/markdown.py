"""Model output as Markdown that cannot run code.

Jupyter front ends sanitise the HTML within Markdown only in outputs that they do not trust, and they trust what a cell
has just written. What a model says may repeat what somebody else wrote (a document, a web page), so HTML and links
that execute are taken apart here. Fenced code stays as it is: it is shown, never interpreted.
"""

from __future__ import annotations

import re

#: An opening fence (CommonMark 4.5): up to three spaces, then at least three backticks or tildes. The information
#: string after backticks holds none.
_FENCE = re.compile(r" {0,3}(?:(`{3,})[^`]*|(~{3,}).*)$")
#: Schemes that execute in a browser; in Markdown the colon may be written with a backslash.
_SCHEME = re.compile(r"(javascript|vbscript|data)(\\?:)", re.IGNORECASE)
ZERO_WIDTH_SPACE = "\u200b"


def harmless(text: str) -> str:
    """Return Markdown that looks like `text` and contains no HTML and no link that executes."""
    lines = []
    fence = ""
    for line in text.split("\n"):
        if fence:
            if re.fullmatch(rf" {{0,3}}{re.escape(fence[0])}{{{len(fence)},}}[ \t]*", line):
                fence = ""
            lines.append(line)
            continue
        opening = _FENCE.match(line)
        if opening:
            fence = opening.group(1) or opening.group(2)
        lines.append(_harmless_line(line))
    return "\n".join(lines)


def _harmless_line(line: str) -> str:
    # Entities first: a scheme could be spelled with them.
    line = line.replace("&", "&amp;").replace("<", "&lt;")
    return _SCHEME.sub(rf"\1{ZERO_WIDTH_SPACE}\2", line)
