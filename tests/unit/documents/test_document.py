"""One shared document on one device: saved as it changes, untouched by what is malformed, bounded in its history."""

from __future__ import annotations

import random
import sqlite3
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycrdt import Array, Doc, Map, Text
from support.effort import examples

from ainet.documents.document import COMPACT_UPDATES, MAX_DOCUMENT, Document, Incomplete
from ainet.documents.store import DocumentStore
from ainet.errors import AinetError, Refused


class Shelf:
    """A store that can be closed and opened again, and what its document told."""

    def __init__(self, path, most=MAX_DOCUMENT) -> None:
        self.path, self.most = path, most
        self.told: list[tuple[bytes, object]] = []
        self.open()

    def open(self) -> Document:
        self.store = DocumentStore(self.path)
        self.document = Document(
            "shared/plan", self.store, lambda _, update, origin: self.told.append((update, origin)), most=self.most
        )
        return self.document

    def reopen(self) -> Document:
        self.close()
        return self.open()

    def close(self) -> None:
        self.document.close()
        self.store.close()


@pytest.fixture
def shelf(tmp_path, request):
    shelf = Shelf(tmp_path / "documents.sqlite", **getattr(request, "param", {}))
    yield shelf
    shelf.close()


def edit(document, key, value):
    document.doc.get("map", type=Map)[key] = value


def value(document):
    return document.doc.get("map", type=Map).to_py()


def elsewhere(**values):
    """Return the update that a device makes which sets these values in an empty document."""
    doc = Doc()
    doc.get("map", type=Map).update(values)
    return doc.get_update()


def test_changes_are_there_after_a_restart(shelf):
    edit(shelf.document, "a", 1)
    assert shelf.document.apply(elsewhere(b=2), "phone")
    assert value(shelf.reopen()) == {"a": 1, "b": 2}
    assert [origin for _, origin in shelf.told] == [None, "phone"]
    assert stat.S_IMODE(shelf.path.stat().st_mode) == 0o600


def test_an_update_that_is_known_already_changes_nothing(shelf):
    update = elsewhere(a=1)
    assert shelf.document.apply(update)
    assert not shelf.document.apply(update)
    assert len(shelf.told) == 1
    assert len(shelf.store.updates("shared/plan")) == 1


@settings(max_examples=examples(300), deadline=None)
@given(st.binary(max_size=80), st.integers(0, 10_000), st.integers(1, 255))
def test_a_malformed_update_leaves_no_trace(tmp_path_factory, junk, position, change):
    shelf = Shelf(tmp_path_factory.mktemp("documents") / "documents.sqlite")
    edit(shelf.document, "a", 1)
    damaged = bytearray(elsewhere(b=[1, 2, {"c": "text"}]))
    damaged[position % len(damaged)] ^= change
    for update in (junk, bytes(damaged)):
        before, saved = shelf.document.doc.get_update(), shelf.store.updates("shared/plan")
        refused = None
        try:
            shelf.document.apply(update, "phone")
        except Refused as exc:
            refused = exc
        if refused is not None:
            assert isinstance(refused, Incomplete) or "malformed" in refused.message
            assert shelf.document.doc.get_update() == before
            assert shelf.store.updates("shared/plan") == saved
    edit(shelf.document, "still", "works")
    after = value(shelf.document)
    assert value(shelf.reopen()) == after
    shelf.close()


def test_an_update_that_comes_too_early_changes_nothing(shelf):
    doc, updates = Doc(), []
    subscription = doc.observe(lambda event: updates.append(event.update))
    numbers = doc.get("map", type=Map)
    numbers["first"], numbers["second"] = 1, 2
    doc.unobserve(subscription)
    edit(shelf.document, "a", 1)
    with pytest.raises(Incomplete):
        shelf.document.apply(updates[1])
    assert value(shelf.document) == {"a": 1}
    for update in updates:
        shelf.document.apply(update)
    assert value(shelf.reopen()) == {"a": 1, "first": 1, "second": 2}


def recorded(edits):
    """Return the updates that the edits of one device make, each for itself."""
    doc, updates = Doc(), []
    subscription = doc.observe(lambda event: updates.append(event.update))
    for change in edits:
        change(doc)
    doc.unobserve(subscription)
    return updates


def _append(doc, word):
    text = doc.get("text", type=Text)
    text += word


GAPS = {
    "text": [lambda doc: _append(doc, "one "), lambda doc: _append(doc, "two "), lambda doc: _append(doc, "three")],
    "map": [lambda doc, i=i: doc.get("map", type=Map).update({"key": i}) for i in range(3)],
    "list": [lambda doc, i=i: doc.get("list", type=Array).append(i) for i in range(3)],
    "deletion": [
        lambda doc: doc.get("map", type=Map).update({"key": 1}),
        lambda doc: doc.get("map", type=Map).update({"other": 1}),
        lambda doc: doc.get("map", type=Map).pop("other"),
    ],
}


@pytest.mark.parametrize("known", [0, 1])
@pytest.mark.parametrize("kind", GAPS)
def test_a_gap_is_noticed_whatever_it_is_in(shelf, kind, known):
    updates = recorded(GAPS[kind])
    for update in updates[:known]:
        shelf.document.apply(update)
    with pytest.raises(Incomplete):
        shelf.document.apply(updates[2])
    for update in updates:
        shelf.document.apply(update)
    whole = Doc()
    for update in updates:
        whole.apply_update(update)
    kinds = (("map", Map), ("list", Array), ("text", Text))
    for name, root in kinds:
        assert shelf.reopen().doc.get(name, type=root).to_py() == whole.get(name, type=root).to_py()


def test_history_does_not_grow_without_bound(shelf):
    chance = random.Random(1)
    text = shelf.document.doc.get("text", type=Text)
    for i in range(5 * COMPACT_UPDATES):
        if len(text) > 200:
            del text[0 : chance.randrange(1, 100)]
        text += f"word{i} "
        edit(shelf.document, f"key{i % 10}", i)
        shelf.document.compact_if_due()
    saved = shelf.store.updates("shared/plan")
    assert len(saved) <= COMPACT_UPDATES + 1
    content, numbers = str(text), value(shelf.document)
    reopened = shelf.reopen()
    assert str(reopened.doc.get("text", type=Text)) == content
    assert value(reopened) == numbers


@pytest.mark.parametrize("shelf", [{"most": 10_000}], indirect=True)
def test_a_document_that_would_be_too_large_is_refused(shelf):
    shelf.document.apply(elsewhere(a="x" * 5000))
    with pytest.raises(Refused, match="would have more than"):
        shelf.document.apply(elsewhere(b="x" * 9000))
    assert set(value(shelf.document)) == {"a"}


def test_a_full_disk_is_said_and_nothing_is_lost_that_was_saved(shelf):
    edit(shelf.document, "a", 1)
    shelf.store._file.execute("PRAGMA max_page_count = 5")
    with pytest.raises(AinetError, match=r"cannot be saved: .* Is the disk full\?"):
        shelf.document.apply(elsewhere(b="x" * 100_000))
    assert value(shelf.reopen()) == {"a": 1}


def test_a_damaged_or_newer_file_is_named(tmp_path):
    damaged, newer = tmp_path / "damaged.sqlite", tmp_path / "newer.sqlite"
    damaged.write_bytes(b"this is no database" * 100)
    with pytest.raises(AinetError, match=r"damaged\.sqlite is damaged"):
        DocumentStore(damaged)
    with sqlite3.connect(newer) as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(AinetError, match="newer ainet"):
        DocumentStore(newer)


def test_what_is_no_state_is_refused(shelf):
    with pytest.raises(Refused, match="no state of a document"):
        shelf.document.missing(b"\xff" * 9)
