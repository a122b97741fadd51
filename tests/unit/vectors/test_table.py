"""Tables of vectors find what is near, and keep nothing that they should not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ainet.errors import AinetError
from ainet.vectors import table
from ainet.vectors.table import STORED, VectorTables

DIMENSIONS = 16


def unit(n, seed=0, dimensions=DIMENSIONS):
    """Random vectors of length 1."""
    made = np.random.default_rng(seed).standard_normal((n, dimensions)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.fixture
def tables(tmp_path):
    return VectorTables(tmp_path / "vectors")


def test_the_nearest_come_first_each_once(tables):
    vectors = unit(300)
    tables.add("t", np.arange(300), vectors)
    tables.add("t", np.arange(20), vectors[:20])  # by a process that ended before it could say so
    expected = np.argsort(-(vectors @ vectors[7]))[:10]
    near = tables.search("t", vectors[7], 10)
    assert near.passages.tolist() == expected.tolist()
    assert np.allclose(near.similarities, vectors[expected] @ vectors[7], atol=1e-3)
    allowed = np.array([3, 9, 250])
    assert set(tables.search("t", vectors[7], 10, among=allowed).passages.tolist()) == {3, 9, 250}
    assert len(tables.search("t", vectors[7], 10, among=np.zeros(0, np.int64)).passages) == 0
    assert len(tables.search("missing", vectors[7], 10).passages) == 0
    assert len(tables.passages("missing")) == 0


@pytest.mark.parametrize(("dimensions", "many"), [(64, 10**6), (384, 10**6), (64, 600), (384, 600), (20, 10**6)])
def test_an_index_finds_what_comparing_with_all_finds(tmp_path, dimensions, many):
    tables = VectorTables(tmp_path / "vectors", exact=500, many=many)
    # Some are like each other, as texts are.
    vectors = unit(60, dimensions=dimensions).repeat(50, axis=0) + 0.7 * unit(3000, seed=2, dimensions=dimensions)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    tables.add("t", np.arange(3000), vectors)
    assert tables.index("t")
    assert not tables.index("t")
    found = [set(tables.search("t", one, 100).passages[:50].tolist()) for one in vectors[:50]]
    exact = [set(np.argsort(-(vectors @ one))[:50].tolist()) for one in vectors[:50]]
    assert np.mean([len(a & b) / 50 for a, b in zip(found, exact, strict=True)]) > 0.95
    tables.add("t", np.arange(3000, 4000), unit(1000, seed=1, dimensions=dimensions))
    assert tables.index("t")
    assert tables.search("t", unit(1000, seed=1, dimensions=dimensions)[5], 1).passages.tolist() == [3005]


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_a_table_written_anew_has_what_is_kept_and_its_files_nothing_else(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("vectors")
    tables, vectors = VectorTables(folder), unit(60)
    for _ in range(data.draw(st.integers(1, 4))):
        some = np.array(data.draw(st.lists(st.integers(0, 59), min_size=1, max_size=40, unique=True)))
        tables.add("old", some, vectors[some])
    there = set(tables.passages("old").tolist())
    keep = data.draw(st.sets(st.integers(0, 70)))
    assert tables.rewrite("old", "new", np.array(sorted(keep), np.int64)) == len(keep & there)
    tables.keep_only(["new"])
    assert tables.passages("new").tolist() == sorted(keep & there)
    assert len(tables.passages("old")) == 0
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for passage in there:
        assert (vectors[passage].astype(STORED).tobytes() in written) == (passage in keep)
    for passage in sorted(keep & there):
        assert tables.search("new", vectors[passage], 1).passages.tolist() == [passage]


def test_tables_of_older_nodes_have_all_bits_of_their_numbers_and_go_on(tmp_path, monkeypatch):
    vectors = unit(40)
    monkeypatch.setattr(table, "STORED", np.float32)
    VectorTables(tmp_path).add("t", np.arange(20), vectors[:20])
    monkeypatch.undo()
    tables = VectorTables(tmp_path)
    tables.add("t", np.arange(20, 40), vectors[20:])
    assert [tables.search("t", one, 1).passages.tolist() for one in vectors] == [[i] for i in range(40)]
    assert tables.rewrite("t", "new", np.arange(10, 30)) == 20
    tables.add("new", np.array([50]), vectors[:1])
    assert tables.search("new", vectors[25], 1).passages.tolist() == [25]
    numbers, read = tables.read("new", np.array([12, 50]))
    assert numbers.tolist() == [12, 50]
    assert read.dtype == np.float32
    assert (read == vectors[[12, 0]]).all()


def test_merging_loses_nothing(tmp_path):
    tables = VectorTables(tmp_path / "vectors", fragments=3)
    vectors = unit(50)
    for i in range(50):
        tables.add("t", np.array([i]), vectors[i : i + 1])
    assert tables.passages("t").tolist() == list(range(50))


def test_a_damaged_table_is_said_in_words(tables, tmp_path):
    tables.add("t", np.arange(20), unit(20))
    for path in (tmp_path / "vectors/t.lance/data").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(AinetError, match="vectors of t cannot be used"):
        VectorTables(tmp_path / "vectors").search("t", unit(1)[0], 3)
