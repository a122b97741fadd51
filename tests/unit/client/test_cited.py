"""What an answer with passages looks like."""

from __future__ import annotations

import pytest

from ainet.api.context import FoundPassage, FoundPassages
from ainet.api.generate import Citation, Message
from ainet.client.answer import Answer
from ainet.client.cited import below_words, marked, place, prompt_words, source_words
from ainet.notebook.markdown import to_html
from ainet.notebook.sources import found_html, link, sources_html


def passage(path="/home/ada/notes/a.md", text="The pump is new.\nIt hums.", **given):
    given = {"cell": "", "line": 3, "end_line": 4, "score": 1.5, "kind": "section", "name": "Cellar"} | given
    return FoundPassage(path=path, text=text, reason="words", **given)


TEXT = "The pump is new. Pumps are nice. See `x[0]`."


@pytest.fixture
def answer():
    cited = [Citation(0, 16, 0, 3, "The pump is new."), Citation(17, 32, None), Citation(33, 43, None)]
    return Answer(text=TEXT, passages=[passage()], citations=cited, prompt="The pump …\n\nIs it new?", model="small")


def test_sentences_bear_their_marks(answer):
    assert marked(answer) == "The pump is new. [1] Pumps are nice. [–] See `x[0]` [–]."
    assert "[1]" in to_html(marked(answer, escape=True))
    defined = "\n\n[1]: http://203.0.113.9/"  # with which an answer could make links of the marks
    assert "<a" not in to_html(marked(answer, escape=True) + defined)


def test_no_mark_stands_within_code():
    text = "Do this.\n```python\nx = 1\ny = 2\n```\nDone it is."
    cited = [Citation(0, 8, None), Citation(text.index("x ="), text.index("x =") + 5, None)]
    assert marked(Answer(text=text, citations=cited)) == text.replace("Do this.", "Do this. [–]")


def test_below_stand_the_passages_and_what_none_says(answer):
    assert below_words(answer).splitlines() == [
        "[1] /home/ada/notes/a.md:3",
        "    The pump is new.",
        "    It hums.",
        "  says: The pump is new.",
        "[–] not from your documents: Pumps are nice.",
        "[–] not from your documents: See `x[0]`",
    ]
    long = passage(text="\n".join("abcdefghij"))
    assert source_words([long])[0].endswith("    h\n    …")
    assert source_words([long], whole=True)[0].endswith("    j")


def test_a_place_is_a_line_or_a_cell():
    assert place(passage()) == "/home/ada/notes/a.md:3"
    assert place(passage(best_line=4)) == "/home/ada/notes/a.md:4"
    assert place(passage(), 9) == "/home/ada/notes/a.md:9"
    assert place(passage("/n.ipynb", cell="c1", line=2)) == "/n.ipynb cell c1:2"
    assert place(passage("/page.html", cell="anchor", line=0)) == "/page.html"


def test_links_are_relative_to_the_notebook_and_open_lines_and_cells():
    here = "/home/ada/work"
    assert link(passage("/home/ada/notes/a.py"), 3, "a<b", here) == '<a href="../notes/a.py#line=2">a&lt;b</a>'
    assert link(passage(name="House > Old cellar"), 3, "x", here) == '<a href="../notes/a.md#Old-cellar">x</a>'
    assert link(passage("/home/ada/a.pdf", cell="page=7"), 0, "x", here) == '<a href="../a.pdf#page=7">x</a>'
    assert (
        link(passage("/home/ada/work/n b.ipynb", cell="c 1"), 1, "x", here)
        == '<a href="n%20b.ipynb#cell-id=c%201">x</a>'
    )
    assert link(passage("/etc/some/file"), 1, "x", "/home/ada/work/deep/er") == "x"  # not below any server's folder
    assert link(passage('/home/ada/work/"><script>.md'), 0, "x", here).count("<") == 2


def test_html_shows_text_and_nothing_that_a_file_wants(answer):
    trap = passage(text='<img src="http://203.0.113.9/x.png"> </code> <script>alert(1)</script>')
    answer.passages = [trap]
    for shown in (sources_html(answer), found_html(FoundPassages(results=[trap]))):
        assert "<img" not in shown
        assert "<script" not in shown
        assert "203.0.113.9" in shown
    assert found_html(FoundPassages(results=[])) == ""


def test_the_prompt_is_told_with_where_it_went_and_why(answer):
    told = prompt_words([Message("system", "Be brief."), Message("user", "Is it new?")], answer)
    assert told.startswith("system: Be brief.\n\nuser: The pump …\n\nIs it new?\n\nWent to: small")
    assert "[1] /home/ada/notes/a.md:3, found by words (score 1.50)" in told
    assert "Went to: nowhere: it was not asked." in prompt_words([Message("user", "Hi")], Answer())
