"""Code in colours of the notebook's own theme: the variables that JupyterLab's editor has for them."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pygments.token import _TokenType

#: Names of Pygments' tokens, the more particular first, and of JupyterLab's variables (`--jp-mirror-editor-…-color`).
_COLOURS = {
    "Comment": "comment",
    "Keyword.Constant": "atom",
    "Keyword": "keyword",
    "Operator.Word": "keyword",
    "Operator": "operator",
    "Literal.Number": "number",
    "Literal.String": "string",
    "Name.Builtin": "builtin",
    "Name.Function": "def",
    "Name.Class": "def",
    "Name.Decorator": "meta",
    "Name.Tag": "tag",
    "Name.Attribute": "attribute",
    "Generic.Deleted": "error",
    "Generic.Inserted": "string",
}


def highlight(code: str, language: str, _attributes: str) -> str:
    """Return code as HTML; a language that nobody knows, and none, is text without colours."""
    from pygments import lex
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    if not language:
        return html.escape(code)
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return html.escape(code)
    pieces = list(lex(code, lexer))
    if "".join(text for _, text in pieces) != code:  # lexers make one kind of line ends of all
        return html.escape(code)
    return "".join(_coloured(kind, text) for kind, text in pieces)


def _coloured(kind: _TokenType, text: str) -> str:
    name = str(kind).removeprefix("Token.")
    colour = next((colour for prefix, colour in _COLOURS.items() if f"{name}.".startswith(f"{prefix}.")), None)
    escaped = html.escape(text)
    if colour is None:
        return escaped
    return f'<span style="color: var(--jp-mirror-editor-{colour}-color, inherit)">{escaped}</span>'
