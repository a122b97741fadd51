"""Whatever happens, it is known whose vectors may be on the disk, and which passages have none."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.storing import change, write

from ainet.storage.hybrid import HybridStorage


@pytest.fixture
def storage(tmp_path):
    made = HybridStorage(tmp_path / "context")
    yield made
    assert made.check() == []
    made.close()


def embed(storage, index, table, n=100):
    """Make vectors, as `ContextVectors` does."""
    numbers = [one.id for one in storage.next_unembedded(index, n)]
    table.update(numbers)
    storage.note_embedded(index, numbers)


def test_passages_need_vectors_once_and_those_that_go_leave_theirs_behind(storage):
    assert not storage.needs_vectors()
    folder = storage.add_folder("/f").id
    write(storage, folder, "a.txt", "apples\nplums")
    assert storage.needs_vectors()  # although no model is known yet
    index, table = storage.open_index("00ff" * 16, "model", 4), set()
    assert (index.left, index.owed, index.table) == (2, 0, "00ff00ff00ff00ff_1")
    assert storage.open_index("00ff" * 16, "model", 4) == index
    first, second = storage.next_unembedded(index.id, 9)
    assert (first.text, second.text) == ("line2\nplums", "line1\napples")  # the newest first
    embed(storage, index.id, table)
    assert not storage.needs_vectors()
    write(storage, folder, "b.txt", "pears")
    write(storage, folder, "a.txt", "apples")
    (index,) = storage.indexes()
    assert (index.left, index.owed) == (2, 2)
    found, keep = storage.embedded(index.id)
    assert (found, keep, found.is_urgent) == (index, [], False)
    storage.note_rewritten(found.id)
    assert [(one.table, one.owed) for one in storage.indexes()] == [(index.next_table, 2)]  # the other is still there
    storage.note_paid(found)
    assert storage.indexes()[0].owed == 0
    storage.reset_index(index.id)
    assert (storage.indexes()[0].left, storage.indexes()[0].is_urgent) == (2, True)
    storage.drop_index(index.id)
    assert storage.indexes() == []


def test_what_is_removed_while_a_table_is_written_anew_stays_owed(storage):
    folder = storage.add_folder("/f").id
    write(storage, folder, "a.txt", "apples")
    write(storage, folder, "b.txt", "pears")
    index = storage.open_index("m" * 64, "model", 4)
    embed(storage, index.id, set())
    storage.remove(storage.sources(folder)["a.txt"].id)
    found, keep = storage.embedded(index.id)
    assert (found.owed, found.is_urgent, len(keep)) == (1, True, 1)
    storage.note_rewritten(found.id)
    storage.remove(storage.sources(folder)["b.txt"].id)
    storage.note_paid(found)
    assert [(one.owed, one.is_urgent) for one in storage.indexes()] == [(1, True)]
    (found,) = storage.indexes()
    storage.note_paid(found)
    assert [(one.owed, one.is_urgent) for one in storage.indexes()] == [(0, False)]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 40))
def test_no_vector_is_forgotten_wherever_the_process_ends(tmp_path_factory, seed, n):
    path = tmp_path_factory.mktemp("context")
    storage, chosen = HybridStorage(path), random.Random(seed)
    folder, known = storage.add_folder("/f").id, dict[str, str]()
    index = storage.open_index("m" * 64, "model", 4).id
    table: set[int] = set()
    for number in range(n):
        step = chosen.choice(["change", "change", "embed", "die", "anew", "die anew", "forget"])
        if step == "change":
            change(storage, folder, known, chosen, number)
        elif step == "embed":
            embed(storage, index, table, chosen.randrange(1, 5))
        elif step == "die":  # after the vectors were written, before that was noted
            table.update(one.id for one in storage.next_unembedded(index, chosen.randrange(1, 5)))
            storage.close()
            storage = HybridStorage(path)
        elif step == "forget" and known:
            path_of_it = chosen.choice(sorted(known))
            storage.forget([storage.sources(folder)[path_of_it].id])
            del known[path_of_it]
            assert storage.forgotten(folder)(path_of_it)
        else:
            found, keep = storage.embedded(index)
            if step == "anew":
                storage.note_rewritten(index)
                table &= set(keep)
                storage.note_paid(found)
    (state,), (_, have) = storage.indexes(), storage.embedded(index)
    current = {number for (number,) in storage._database.ask("SELECT id FROM current_passages")}
    assert set(have) <= table
    assert len(table - current) <= state.owed
    assert state.left == len(current - set(have))
    assert storage.check() == []
    storage.close()
