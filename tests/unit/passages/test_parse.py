"""Files become passages that can be cited: by structure, each with its lines."""

from __future__ import annotations

import json
import sys
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainet.errors import UsageError
from ainet.passages.lines import MOST_CHARACTERS, MOST_LINES, passages_of
from ainet.passages.parse import parse

MODULE = '''\
"""What the module is for."""

import os

LIMIT = 3  # of something


# Why it is so.
# And more of it.
@cache
def outer(x):
    def inner():
        return x
    return inner


class Pool:
    """Keeps things."""

    size: int = 4

    def get(self):
        return os

    # About put.
    async def put(self, one):
        self.one = one

    end = True


if os.name == "nt":

    def only_there():
        pass
else:
    def only_here(): pass

print(outer)
'''


def found(path, text):
    """What was found, by the names of passages."""
    return [(one.kind, one.name, one.first_line, one.last_line) for one in parse(path, text.encode())]


def test_python_is_cut_at_functions_and_classes():
    assert found("a.py", MODULE) == [
        ("module", "", 1, 5),
        ("function", "outer", 8, 14),
        ("class", "Pool", 17, 20),
        ("function", "Pool.get", 22, 23),
        ("function", "Pool.put", 25, 27),
        ("class", "Pool", 29, 29),
        ("module", "", 32, 32),
        ("function", "only_there", 34, 35),
        ("module", "", 36, 36),
        ("function", "only_here", 37, 37),
        ("module", "", 39, 39),
    ]


def test_python_that_does_not_compile_is_read_as_text():
    assert found("a.py", "def broken(:\n    pass\n") == [("text", "", 1, 2)]
    assert found("a.py", "(" * 5000) == [("text", "", 1, 1), ("text", "", 1, 1)]


def test_every_line_of_the_standard_library_is_in_one_passage():
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    assert len(paths) > 100
    for path in paths[::3]:
        text = path.read_bytes().decode()
        lines = text.split("\n")
        covered: list[int] = []
        for one in parse(path.name, path.read_bytes()):
            assert one.text == "\n".join(lines[one.first_line - 1 : one.last_line]) or len(one.text) <= MOST_CHARACTERS
            assert one.last_line - one.first_line < MOST_LINES
            covered += range(one.first_line, one.last_line + 1)
        assert {number for number, line in enumerate(lines, 1) if line.strip()} <= set(covered), path
        assert len(covered) == len(set(covered)), path


MARKDOWN = """\
before

# One
text `code`

## Two
```
# no heading
```
> # quoted

Three
=====
end
"""


def test_markdown_is_cut_at_headings_and_named_by_those_above():
    assert found("a.md", MARKDOWN) == [
        ("section", "", 1, 1),
        ("section", "One", 3, 4),
        ("section", "One > Two", 6, 10),
        ("section", "Three", 12, 14),
    ]


def notebook(*cells):
    return json.dumps({"nbformat": 4, "cells": cells})


def code(source, *outputs, name="c"):
    return {"cell_type": "code", "id": name, "source": source, "outputs": list(outputs)}


def test_notebooks_are_cut_at_cells_with_the_headings_above_them():
    text = notebook(
        {"cell_type": "markdown", "id": "m1", "source": ["# Sales\n", "\n", "About them."]},
        code("x = 1\nx", {"output_type": "execute_result", "data": {"text/plain": "1", "image/png": "…"}}, name="c1"),
        {"cell_type": "markdown", "id": "m2", "source": "## Cleaning"},
        code("", name="empty"),
        code(
            ["1/0"],
            {"output_type": "stream", "text": ["so\n", "far"]},
            {"output_type": "error", "ename": "E", "evalue": "no"},
        ),
        {"cell_type": "markdown", "id": "m3", "source": "# Costs"},
        {"cell_type": "raw", "source": "as it is"},
    )
    assert [(one.kind, one.name, one.cell, one.text) for one in parse("a.ipynb", text.encode())] == [
        ("section", "Sales", "m1", "# Sales\n\nAbout them."),
        ("cell", "Sales", "c1", "x = 1\nx"),
        ("output", "Sales", "c1", "1"),
        ("section", "Sales > Cleaning", "m2", "## Cleaning"),
        ("cell", "Sales > Cleaning", "c", "1/0"),
        ("output", "Sales > Cleaning", "c", "so\nfar\nE: no"),
        ("section", "Costs", "m3", "# Costs"),
        ("cell", "Costs", "6", "as it is"),
    ]


@pytest.mark.parametrize("text", ["{", "[]", '{"cells": 3}', '{"worksheets": []}'])
def test_a_broken_notebook_is_refused_in_words(text):
    with pytest.raises(UsageError, match=r"is not JSON|is no notebook"):
        parse("a.ipynb", text.encode())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["cell_type", "source", "outputs", "data", "text", "output_type", "id"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_no_cell_is_too_odd(cell):
    parse("a.ipynb", notebook(cell, code("x = 1"), cell).encode())


def test_a_table_is_its_columns_and_first_rows():
    rows = "\n".join(f"{n};{n}.5;name{n};" for n in range(100))
    (one,) = parse("sales.csv", f"id;price;customer name;left\n{rows}\n".encode())
    assert one.kind == "table"
    assert one.text.splitlines()[:5] == [
        "Table of 100 rows with the columns",
        "id: integer",
        "price: number",
        "customer name: text",
        "left: empty",
    ]
    assert "3, 3.5, name3," in one.text
    assert parse("a.csv", b"") == []
    (long,) = parse("a.csv", b"a,b\n" + b"1,2\n" * 400_000)
    assert "at least 249" in long.text


def test_encodings_and_line_ends():
    assert [one.text for one in parse("a.txt", "größer\r\nals".encode("utf-8-sig"))] == ["größer\nals"]
    assert [one.text for one in parse("a.txt", "größer".encode("utf-16"))] == ["größer"]
    assert [one.text for one in parse("a.txt", "größer".encode("latin-1"))] == ["größer"]
    for data in (b"\x7fELF\0\0", b"\xff\xfe\xd8"):
        with pytest.raises(UsageError, match="is no text"):
            parse("a.txt", data)


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\n"), max_size=30) | st.just("") | st.just("x" * 5000), max_size=150
    )
)
def test_passages_hold_every_line_once_and_none_is_too_long(lines):
    found = list(passages_of(lines, 1, len(lines), kind="text"))
    for one in found:
        assert one.text.strip() or len(one.text) == MOST_CHARACTERS
        assert len(one.text) <= MOST_CHARACTERS
        assert one.last_line - one.first_line < MOST_LINES
    ranges = sorted({(one.first_line, one.last_line) for one in found})
    covered = [number for first, last in ranges for number in range(first, last + 1)]
    assert len(covered) == len(set(covered))
    assert {number for number, line in enumerate(lines, 1) if line.strip()} <= set(covered)


def test_a_megabyte_in_one_line_is_cut():
    found = parse("a.txt", b"word " * 200_000)
    assert len(found) == 250
    assert {(one.first_line, one.last_line) for one in found} == {(1, 1)}
    assert sys.getsizeof(found[0].text) < 2 * MOST_CHARACTERS
