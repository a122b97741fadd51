from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbconvert.filters.markdown_mistune import markdown2html_mistune

from ainet.markdown import harmless

ATTACKS = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "&lt;b&gt; <b>x</b>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    r"[x](javascript\:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](javascript&colon;alert(1))",
    "[x]: javascript:alert(1)\n\n[x]",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    "<javascript:alert(1)>",
    "```\nclosed\n```\n<script>alert(1)</script>",
    "~~~\nclosed\n~~~\n<script>alert(1)</script>",
    "```\n~~~\n```\n<script>alert(1)</script>",
    "````\n```\n````\n<script>alert(1)</script>",
    "``` a`b\n<script>alert(1)</script>",
    "    ```\n<script>alert(1)</script>",
    "`x\n```\n`\n```\n<img src=x onerror=alert(1)>",
    "> ```\n<script>alert(1)</script>",
    "- ```\n<script>alert(1)</script>",
    "``` `\n<script>alert(1)</script>\n```",
]


def executes(html: str) -> bool:
    """Return whether HTML that Markdown was turned into has a tag or an address that the text brought with it."""
    unquoted = re.sub(r"<code[^>]*>.*?</code>", "", html, flags=re.DOTALL)
    return bool(
        re.search(r"<(script|img|b|svg|iframe)\b(?![^>]*\bdata-ok)", re.sub(r'<img src="https?:[^>]*>', "", unquoted))
        or re.search(r"(href|src)\s*=\s*\"?\s*(javascript|vbscript|data):", html, re.IGNORECASE)
    )


@pytest.mark.parametrize("text", ATTACKS)
def test_what_a_model_says_cannot_run_in_a_notebook(text):
    assert not executes(markdown2html_mistune(harmless(text)))


def test_the_attacks_are_real():
    working = [text for text in ATTACKS if "<script>" in text or "onerror" in text]
    assert any(executes(markdown2html_mistune(text)) for text in working)


@given(st.lists(st.sampled_from(["`", "```", "~~~", "\n", " ", "    ", "> ", "- ", "x", "<script>", "<b>", "$"])))
def test_no_mixture_of_fences_and_tags_runs(pieces):
    assert "<script>" not in re.sub(
        r"<code[^>]*>.*?</code>", "", markdown2html_mistune(harmless("".join(pieces))), flags=re.DOTALL
    )


@pytest.mark.parametrize(
    "text",
    [
        "# A heading\n\n- one\n- **two**\n\n| a | b |\n|---|---|\n| 1 | 2 |",
        "```python\nif a < b and c & d:\n    print('<b>')\n```",
        "see [the page](https://example.org/?x=1#y) and $x^2$",
        "a ~~~ b\n~~~\n<b>\n~~~",
    ],
)
def test_ordinary_markdown_and_code_stay_as_they_are(text):
    assert harmless(text) == text


def test_signs_outside_code_are_shown_as_they_were_written():
    assert harmless("1 < 2 & 3 &amp; <b>") == "1 &lt; 2 &amp; 3 &amp;amp; &lt;b>"
