"""What code has to do with other code is read from it; what cells need and make, from their variables."""

from __future__ import annotations

import json

import pytest

from ainet.passages.cells import cell_relations
from ainet.passages.parse import parse

SOURCE = """
import os.path
import numpy as np
from .sibling import helper as h
from ..above import Base
from json import loads


class Reader(Base, np.Matrix):
    def read(self):
        try:
            return self.line() + self.other() + h(loads(np.load("a.npy")))
        except (OSError, h.Bad) as exc:
            raise ValueError("no") from exc

    def line(self):
        return len(os.path.join("a", "b"))


def main(reader):
    reader.read()
    Reader().read()
    open("out.txt", "w")
    open("in.txt")
    main(None)
"""


def relations(text, name="pkg/mod.py"):
    return {
        one.name: {(relation.kind, relation.target) for relation in one.relations}
        for one in parse(name, text.encode())
        if one.relations
    }


def test_names_are_followed_through_imports_and_scopes():
    found = relations(SOURCE)
    assert found["Reader"] == {("inherits", "..above.Base"), ("inherits", "numpy.Matrix")}
    assert found["Reader.read"] == {
        ("calls", ":Reader.line"),
        ("calls", "?.other"),
        ("calls", ".sibling.helper"),
        ("calls", "json.loads"),
        ("calls", "numpy.load"),
        ("reads", "a.npy"),
        ("catches", "OSError"),
        ("catches", ".sibling.helper.Bad"),
        ("raises", "ValueError"),
    }
    assert found["Reader.line"] == {("calls", "os.path.join")}
    assert found["main"] == {
        ("calls", "?.read"),
        ("calls", ":Reader"),
        ("calls", "open"),
        ("writes", "out.txt"),
        ("reads", "in.txt"),
        ("calls", ":main"),
    }
    assert ("imports", "numpy") in found[""]


@pytest.mark.parametrize(
    ("source", "uses", "assigns"),
    [
        ("import pandas as pd\ndf = pd.read_csv('a.csv')", [], ["df", "pd"]),
        ("df['x'] = df.y * k", ["df", "k"], ["df"]),
        ("def f(a):\n    return a + k", ["k"], ["f"]),
        ("for i in range(n):\n    total += i", ["n", "total"], ["i", "total"]),
        ("x = 1\ny = x", [], ["x", "y"]),
        ("y = x\nx = 1", ["x"], ["x", "y"]),
        ("[z for z in q]", ["q"], []),
        ("try:\n    a\nexcept E as e:\n    print(e)", ["E", "a"], ["e"]),
        ("del x", ["x"], ["x"]),
        ("%matplotlib inline\nplot(x)", ["plot", "x"], []),
        ("files = !ls", [], ["files"]),
        ("lambda v: v + w", ["w"], []),
        ("with open(p) as f:\n    f.read()", ["p"], ["f"]),
        ("def broken(", [], []),
    ],
)
def test_what_a_cell_needs_and_makes(source, uses, assigns):
    found = cell_relations(source)
    assert sorted(one.target[1:] for one in found if one.kind == "uses") == uses
    assert sorted(one.target[1:] for one in found if one.kind == "assigns") == assigns


def test_cells_know_when_they_ran():
    cells = [
        {"cell_type": "code", "id": "a", "source": "y = x", "execution_count": 2, "outputs": []},
        {"cell_type": "code", "id": "b", "source": "x = 1", "execution_count": 1, "outputs": []},
        {"cell_type": "code", "id": "c", "source": "z = y", "execution_count": None, "outputs": []},
    ]
    found = parse("n.ipynb", json.dumps({"cells": cells}).encode())
    assert [(one.cell, one.ran) for one in found] == [("a", 2), ("b", 1), ("c", 0)]
    assert {(one.kind, one.target) for one in found[0].relations} == {("uses", ":x"), ("assigns", ":y")}


def test_what_prose_mentions_and_links_to():
    text = (
        "# Pool\nSee `WorkerPool.lease`, `take_back()`, `word`, [the layout](layout.md#figures) and "
        "[the web](https://example.org), `https://x`.\n\n# Other\nNothing.\n"
    )
    assert relations(text, "docs/a.md") == {
        "Pool": {("mentions", "WorkerPool.lease"), ("mentions", "?.take_back"), ("links", "layout.md")}
    }
