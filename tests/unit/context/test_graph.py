"""A trace shows what leads to something and what it leads to, in code and through the cells of notebooks."""

from __future__ import annotations

import json

import pytest
from defusedxml import ElementTree
from support.storing import fingerprint

from ainet.cli.commands.context import trace_words
from ainet.context.graph import trace
from ainet.errors import NotFound
from ainet.notebook.picture import INK
from ainet.notebook.trace_picture import trace_svg
from ainet.passages.parse import parse
from ainet.storage.hybrid import HybridStorage

SHOP = """
def vat(price):
    return 1.19 * price


def total(prices):
    return vat(sum(prices))


class Till:
    def charge(self, prices):
        return total(prices)


def even(n):
    return n == 0 or odd(n - 1)


def odd(n):
    return n != 0 and even(n - 1)
"""
CELLS = [
    ("load", "df = read_sales()", 3),
    ("clean", "clean = df.dropna()", 4),
    ("plot", "plot(clean, k)", 5),
    ("k", "k = 7", 1),
    ("old", "df = None", 1),
    ("later", "clean.describe()", None),
]


@pytest.fixture
def storage(tmp_path):
    made = HybridStorage(tmp_path / "context")
    folder = made.add_folder("/f").id
    cells = [
        {"cell_type": "code", "id": name, "source": source, "execution_count": ran, "outputs": []}
        for name, source, ran in CELLS
    ]
    for path, text in (("shop.py", SHOP), ("sales.ipynb", json.dumps({"cells": cells}))):
        passages = parse(path, text.encode())
        made.commit(made.stage(folder, path, fingerprint(text), parser="p", passages=passages))
    yield made
    made.close()


def edges(found):
    names = {one.id: one.cell or one.name for one in found.nodes}
    return {(names[one.begin], names[one.end]) for one in found.edges}


def test_code_is_followed_both_ways(storage):
    found = trace(storage, "total")
    assert edges(found) == {("vat", "total"), ("total", "Till.charge")}
    assert [one.name for one in found.nodes if one.is_asked] == ["total"]
    assert edges(trace(storage, "vat")) == {("vat", "total"), ("total", "Till.charge")}
    assert edges(trace(storage, "vat", depth=1)) == {("vat", "total")}
    assert edges(trace(storage, "even()")) == {("odd", "even"), ("even", "odd")}
    words = trace_words(trace(storage, "total"))
    assert words.splitlines() == [
        "total  shop.py:6",
        "  needs",
        "    calls vat  shop.py:2",
        "  is needed by",
        "    calls it: Till.charge  shop.py:11",
    ]


def test_a_variable_is_followed_through_cells_as_they_ran(storage):
    found = trace(storage, "clean")
    assert edges(found) == {("load", "clean"), ("clean", "plot"), ("clean", "later")}
    assert [one.cell for one in found.nodes if one.is_asked] == ["clean"]
    assert edges(trace(storage, "k")) == {("k", "plot")}
    with pytest.raises(NotFound, match="Nothing that is known is called unicorn"):
        trace(storage, "unicorn")
    with pytest.raises(NotFound):
        trace(storage, "clean", within="/f/shop.py")


@pytest.mark.parametrize("name", ["total", "even", "clean", "Till"])
def test_a_picture_has_a_box_for_each_and_one_colour_for_all_pages(storage, name):
    found = trace(storage, name)
    picture = ElementTree.fromstring(trace_svg(found))
    rects = picture.findall(".//{*}rect")
    assert len(rects) == len(found.nodes)
    assert len({(one.get("x"), one.get("y")) for one in rects}) == len(rects)
    assert len(picture.findall("{*}path")) == len(found.edges)
    assert "#" not in trace_svg(found).replace("url(#end)", "").replace(INK, "")
