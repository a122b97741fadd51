"""Merging notebooks cell by cell: what each side changed remains."""

from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st

from ainet.sharing.notebook_merge import mark_runs, merge


def notebook(*cells):
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def cell(name, source="", **more):
    return {
        "id": name,
        "cell_type": "code",
        "source": source,
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    } | more


def sources(found):
    return [(one["id"], one["source"]) for one in found["cells"]]


BASE = notebook(cell("a", "1"), cell("b", "2"), cell("c", "3"))


def test_changes_of_both_sides_remain():
    mine = notebook(cell("a", "mine"), cell("b", "2"), cell("new", "x"), cell("c", "3"))
    theirs = notebook(cell("a", "1"), cell("b", "theirs"), cell("c", "3"), cell("last", "y"))
    merged = merge(BASE, mine, theirs)
    assert sources(merged) == [("a", "mine"), ("b", "theirs"), ("new", "x"), ("c", "3"), ("last", "y")]


def test_a_deleted_cell_is_gone_unless_it_was_changed():
    mine = notebook(cell("a", "1"))
    theirs = notebook(cell("a", "1"), cell("b", "2"), cell("c", "changed"))
    assert sources(merge(BASE, mine, theirs)) == [("a", "1"), ("c", "changed")]


def test_a_cell_that_was_moved_stays_where_it_went():
    mine = notebook(cell("c", "3"), cell("a", "1"), cell("b", "2"))
    theirs = notebook(cell("a", "1"), cell("new", "x"), cell("b", "theirs"), cell("c", "3"))
    assert [one["id"] for one in merge(BASE, mine, theirs)["cells"]] == ["c", "a", "new", "b"]


CELLS = st.lists(st.sampled_from("abcdefg"), unique=True, max_size=6)
SOURCES = st.dictionaries(st.sampled_from("abcdefg"), st.sampled_from(["1", "2", "3"]))


@st.composite
def notebooks(draw):
    values = draw(SOURCES)
    return notebook(*(cell(name, values.get(name, "0")) for name in draw(CELLS)))


@given(notebooks(), notebooks(), notebooks())
def test_a_merge_makes_sense(base, mine, theirs):
    before = copy.deepcopy((base, mine, theirs))
    merged = merge(base, mine, theirs)
    assert (base, mine, theirs) == before
    names = [one["id"] for one in merged["cells"]]
    assert len(names) == len(set(names))
    there = {one["id"] for one in (*mine["cells"], *theirs["cells"])}
    assert set(names) <= there
    here, other, old = ({one["id"]: one for one in found["cells"]} for found in (mine, theirs, base))
    for one in merged["cells"]:
        assert one in (here.get(one["id"]), other.get(one["id"]))
    for name, changed in here.items():
        if changed != old.get(name):
            assert name in names  # no change is lost
    for name, changed in other.items():
        if changed != old.get(name) and name not in old:
            assert name in names


@given(notebooks(), notebooks())
def test_what_one_side_left_alone_is_as_the_other_has_it(base, changed):
    assert sources(merge(base, base, changed)) == sources(changed)
    assert sorted(sources(merge(base, changed, base))) == sorted(sources(changed))
    assert sources(merge(base, changed, changed)) == sources(changed)


def test_cells_that_were_run_say_where():
    after = notebook(cell("a", "1", execution_count=1), cell("b", "2"), cell("new", "3", execution_count=2))
    marked = mark_runs(BASE, after, {"device": "desk"})
    assert [one["metadata"].get("ainet") for one in marked["cells"]] == [{"device": "desk"}, None, {"device": "desk"}]
    assert mark_runs(marked, marked, {"device": "phone"}) == marked
