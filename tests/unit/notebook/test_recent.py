"""The cells that ran last, as they go along with a question."""

from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from ainet.errors import UsageError
from ainet.notebook.recent import MOST_OUTPUT, recent_words


class Loud:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.fixture
def shell():
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance(config=Config({"HistoryManager": {"hist_file": ":memory:"}}), colors="nocolor")
    InteractiveShell.clear_instance()


def ran(shell, *cells):
    for cell in cells:
        shell.run_cell(cell, store_history=True)


def test_the_last_cells_go_along_with_what_they_returned_and_what_their_variables_are(shell):
    with pytest.raises(UsageError, match="No cell has been executed"):
        recent_words(shell, 2)
    ran(shell, "first = 1", "boats = [3, 4]\nlen(boats)", "%ainet status", "sum(boats) / first")
    words = recent_words(shell, 2)
    assert words.split("\n") == [
        "These cells were executed:",
        "```python",
        "boats = [3, 4]",
        "len(boats)",
        "```",
        "returned 2",
        "```python",
        "sum(boats) / first",
        "```",
        "returned 7.0",
        "Variables: boats is of type list, length 2; first is of type int.",
    ]
    assert "first = 1" in recent_words(shell, 3)


def test_what_is_long_or_cannot_be_shown_is_short(shell):
    shell.user_ns["loud"] = Loud()
    ran(shell, "'x' * 100000", "loud", "not python at all")
    words = recent_words(shell, 3)
    assert len(words) < MOST_OUTPUT + 400
    assert "an object of type Loud" in words
    assert "not python at all" in words
