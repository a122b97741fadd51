"""Pages become sections and definitions, in plain text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ainet.passages.html import html_passages
from ainet.passages.parse import parse

PAGE = """<!doctype html><html><head><title>No</title><style>p {}</style></head><body>
<nav>Home | Away</nav><div role="navigation">Index</div>
<section id="csv"><h1>CSV files<a href="#csv">¶</a></h1>
<p>The <em>most</em> <b>com</b>mon
format.</p><script>alert(1)</script>
<h2 id="contents">Contents</h2>
<dl><dt id="csv.reader"><code>reader</code>(<em>file</em>)</dt><dd><p>Return a reader.</p>
<pre>&gt;&gt;&gt; import csv
    more</pre></dd></dl>
<p>Afterwards: 1 &lt; 2<br>next</p><ul><li>one<li>two</ul>
<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>
</section><footer>Bye</footer></body></html>"""


def test_sections_and_definitions_with_their_anchors():
    found = [(one.kind, one.name, one.cell, one.text) for one in parse("a.html", PAGE.encode())]
    assert found == [
        ("section", "CSV files", "csv", "CSV files\nThe most common format."),
        ("section", "CSV files > Contents", "contents", "Contents"),
        ("definition", "csv.reader", "csv.reader", "reader(file)\nReturn a reader.\n>>> import csv\n    more"),
        ("section", "CSV files > Contents", "contents", "Afterwards: 1 < 2\nnext\none\ntwo\na b\nc"),
    ]


def test_nothing_is_too_deep_or_too_broken():
    assert list(html_passages("<div>" * 5000 + "deep")) == []
    assert [one.text for one in html_passages("<p>never <b>closed")] == ["never closed"]
    assert list(html_passages("")) == []


@given(st.text("<>/=\"' abdhpt1;&", max_size=200))
def test_any_text_is_a_page(text):
    list(html_passages(text))
