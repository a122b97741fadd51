"""Passages below an answer, as HTML: quoted, with links that open the file, at its cell or line."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ainet.api.context import unasked_words
from ainet.client.cited import LEGEND, MOST_LINES, has_unknown, place

if TYPE_CHECKING:
    from ainet.api.context import FoundPassage, FoundPassages
    from ainet.client.answer import Answer

QUIET = "opacity: 0.6"
MARKDOWN, PDF = (".md", ".markdown"), ".pdf"
#: Folders above the notebook's that links may lead to.
MOST_UP = 3


def link(passage: FoundPassage, line: int, text: str, here: str | None = None) -> str:
    """Return a link to a passage, as HTML: relative to the notebook's folder, as JupyterLab follows it.

    What is on another device has none.

    Parameters
    ----------
    here
        The notebook's folder; None for that of the kernel.
    """
    if passage.device:
        return html.escape(text)
    path = os.path.relpath(passage.path, here or Path.cwd())
    if path.count("..") > MOST_UP:
        return html.escape(text)
    if passage.cell and path.endswith(".ipynb"):
        fragment = f"#cell-id={quote(passage.cell)}"
    elif path.endswith(MARKDOWN) and passage.name:  # is opened as a page, in which headings have names
        fragment = "#" + quote(passage.name.rpartition(" > ")[2].replace(" ", "-"))
    elif path.endswith(PDF):
        fragment = f"#{passage.cell}" if passage.cell else ""
    else:
        fragment = f"#line={line - 1}" if line else ""  # JupyterLab counts from 0
    return f'<a href="{html.escape(quote(path) + fragment)}">{html.escape(text)}</a>'


def sources_html(answer: Answer) -> str:
    """Return the passages that went along with a question, quoted."""
    cited = {one.passage: one.line for one in reversed(answer.citations) if one.passage is not None}
    items = []
    for number, one in enumerate(answer.passages):
        line = cited.get(number, 0) or one.best_line
        lines = one.text.split("\n")
        text = "\n".join([*lines[:MOST_LINES], *(["…"] if len(lines) > MOST_LINES else [])])
        items.append(
            f"<p>[{number + 1}] {link(one, line, place(one, line))}</p>"
            f'<pre style="margin-left: 2em"><code>{html.escape(text)}</code></pre>'
        )
    legend = f"<p>{html.escape(LEGEND)}</p>" if has_unknown(answer) else ""
    return f'<details style="{QUIET}"><summary>From your documents</summary>{legend}{"".join(items)}</details>'


def found_html(found: FoundPassages) -> str:
    """Return passages as a table whose links open them; empty where there are none."""
    rows = []
    for number, one in enumerate(found.results, 1):
        lines = one.text.split("\n")
        text = "\n".join([*lines[:MOST_LINES], *(["…"] if len(lines) > MOST_LINES else [])])
        about = " ".join(part for part in (one.kind, one.name) if part)
        why = f'<br><small style="{QUIET}">{html.escape(f"{about} · {one.reason}")}</small>'
        rows.append(
            f'<tr><td>{number}</td><td style="text-align: left">{link(one, one.best_line, place(one))}{why}</td>'
            f'<td style="text-align: left"><pre><code>{html.escape(text)}</code></pre></td></tr>'
        )
    unasked = [f"<p>{html.escape(words)}.</p>" for words in unasked_words(found.unasked)]
    return f"<table>{''.join(rows)}</table>{''.join(unasked)}" if rows else ""
