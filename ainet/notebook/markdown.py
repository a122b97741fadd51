"""Model output as HTML that says what the Markdown says, and can neither run code nor call home.

Jupyter front ends sanitise outputs only if they do not trust them, and they trust what a cell has just written. What a
model says may repeat what somebody else wrote (a document, a web page), so it is rendered here, by the rules of
CommonMark: tags of HTML are escaped, links lead to web pages only, and there are no images. Code stays as it is, to the
last character.
"""

from __future__ import annotations

import functools
import html
import re
from typing import TYPE_CHECKING, Any

from ainet.notebook.highlighting import highlight

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from markdown_it import MarkdownIt
    from markdown_it.renderer import RendererProtocol
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

_WEB_PAGE = re.compile(r"https?://|mailto:", re.IGNORECASE)


def to_html(markdown: str) -> str:
    """Return the HTML of a text in Markdown."""
    rendered: str = _parser().render(markdown)
    return rendered


@functools.cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    parser = MarkdownIt("commonmark", {"html": False, "highlight": highlight})
    parser.enable(["table", "strikethrough"]).disable(["image", "html_block", "html_inline"])
    parser.use(dollarmath_plugin, allow_space=False, allow_digits=False, allow_labels=False, double_inline=True)
    _leave_code(parser)
    parser.validateLink = _is_web_page  # type: ignore[method-assign]
    parser.add_render_rule("text", _text)
    parser.add_render_rule("link_open", _link_open)
    for name in ("math_inline", "math_inline_double", "math_block"):
        parser.add_render_rule(name, _formula)
    return parser


def _leave_code(parser: MarkdownIt) -> None:
    """Let no formula begin before code within a line and end inside: ``$5, `$x` `` is a price, and code."""
    rules = parser.inline.ruler
    formula = next(rule.fn for rule in rules.__rules__ if rule.name == "math_inline")

    def formula_without_code(state: StateInline, silent: bool) -> bool:
        begin, pending, tokens = state.pos, state.pending, len(state.tokens)
        found: bool = formula(state, silent)
        if found and "`" in state.src[begin : state.pos]:
            state.pos, state.pending = begin, pending
            del state.tokens[tokens:], state.tokens_meta[tokens:]
            return False
        return found

    rules.at("math_inline", formula_without_code)


def _is_web_page(url: str) -> bool:
    return _WEB_PAGE.match(url) is not None


def _text(
    renderer: RendererProtocol, tokens: Sequence[Token], at: int, options: Any, env: MutableMapping[str, Any]
) -> str:
    """Keep dollar signs apart: a front end looks for formulas between any two in the same piece of text."""
    return html.escape(tokens[at].content).replace("$", "<span>$</span>")


def _link_open(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: MutableMapping[str, Any]) -> str:
    tokens[at].attrs |= {"target": "_blank", "rel": "noopener noreferrer"}
    rendered: str = renderer.renderToken(tokens, at, options, env)
    return rendered


def _formula(
    renderer: RendererProtocol, tokens: Sequence[Token], at: int, options: Any, env: MutableMapping[str, Any]
) -> str:
    """Leave a formula to the front end, which knows how to set it."""
    tag = "div" if tokens[at].type == "math_block" else "span"
    sign = "$" if tokens[at].type == "math_inline" else "$$"
    return f"<{tag}>{sign}{html.escape(tokens[at].content)}{sign}</{tag}>"
