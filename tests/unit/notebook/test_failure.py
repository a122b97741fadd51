"""The cell that failed last becomes a question."""

from __future__ import annotations

import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from ainet.errors import UsageError
from ainet.notebook.failure import failure_words


@pytest.fixture
def shell(monkeypatch):
    monkeypatch.delattr(sys, "last_value", raising=False)
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}), colors="nocolor")
    InteractiveShell.clear_instance()


def test_the_question_has_the_code_the_error_and_the_kinds_of_variables(shell, capsys):
    shell.run_cell("import numpy as np\ntable = np.zeros((3, 2))\nsecret = 'zeppelin'\nnames = ['a', 'b']")
    shell.run_cell("# a comment\n\ndef work():\n    return table @ table + len(names)\n\nwork()")
    shell.run_cell("fine = 1")
    words = failure_words(shell)
    assert "def work():" in words
    assert "fails at `return table @ table + len(names)` with:\nValueError: matmul" in words
    assert "table is of type ndarray, shape (3, 2)" in words
    assert "names is of type list, length 2" in words
    assert "zeppelin" not in words


def test_what_does_not_compile_and_what_raises_when_looked_at(shell, capsys):
    shell.run_cell("class Odd:\n    @property\n    def shape(self): raise RuntimeError\nodd = Odd()")
    shell.run_cell("odd.missing")
    assert "AttributeError" in failure_words(shell)


def test_without_a_failure_it_says_so(shell):
    with pytest.raises(UsageError, match="No cell of this notebook has failed"):
        failure_words(shell)
