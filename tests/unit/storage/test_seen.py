"""What somebody may not see has no influence on what he gets: no result, no count, no score."""

from __future__ import annotations

import random
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.storing import fingerprint

from ainet.api.context import FoundPassage
from ainet.context import graph
from ainet.context.grounds import chosen
from ainet.context.retriever import Retriever
from ainet.errors import NotFound
from ainet.storage.hybrid import HybridStorage
from ainet.storage.records import Found, Passage, Relation

WORDS = ("pump", "boiler", "fuse", "garden", "zeppelin", "parse", "total", "vat")
NAMES = ("parse", "total", "shop.vat")
QUESTIONS = (
    "pump",
    "pump boiler",
    "how does the boiler of the garden work?",
    "who calls parse",
    "parse",
    "what does total call",
    "tests of vat",
    "where is vat defined",
    "zeppelin fuse garden",
)


def passage_of(chosen_):
    name = chosen_.choice(("", *NAMES))
    relations = tuple(
        Relation("calls", chosen_.choice(("?.parse", "total", "shop.vat", ":total")))
        for _ in range(chosen_.randrange(3))
    )
    text = " ".join(chosen_.choices(WORDS, k=chosen_.randint(1, 12)))
    return Passage(text, "function" if name else "section", name, 1, 2, relations=relations)


def fill(storage, folder, chosen_):
    """Write some files, each with the same name in any folder, and change one."""
    for name in ("a.py", "tests/test_b.py", "c.md", "a.py"):
        passages = [passage_of(chosen_) for _ in range(chosen_.randint(1, 3))]
        storage.commit(storage.stage(folder, name, fingerprint(str(chosen_.random())), parser="p", passages=passages))


def told(view):
    """All that a view tells: results with scores, counts, traces, what covers a question."""
    known = [(folder.path, folder.label, sorted(view.sources(folder.id))) for folder in view.folders()]
    answers = []
    for question in QUESTIONS:
        numbers = view.all_among(below=None, kind=None, most=1000)
        # As if the nearest ones were those with the shortest texts.
        texts = {one.id: len(one.passage.text) for one in view.passages(numbers)}
        near = [Found(number, 1 / (1 + texts[number])) for number in sorted(texts, key=lambda one: (texts[one], one))]
        for below in (None, "/shared"):
            found = Retriever(view).find(question, 10, vectors=near[:5], below=below)
            answers.append([(one.passage.folder, one.passage.path, one.passage.passage, one.score) for one in found])
        shown = [
            FoundPassage(
                path="", cell="", line=1, end_line=2, score=1.0, text=one.passage.passage.text, kind="", name=""
            )
            for one in found
        ]
        answers.append([one.text for one in chosen(view, question, shown)] if shown else [])
    for name in (*NAMES, "vat"):
        try:
            trace = graph.trace(view, name)
        except NotFound as exc:
            answers.append(exc.message)
        else:
            places = {one.id: number for number, one in enumerate(trace.nodes)}
            answers.append([(one.path, one.line, one.name) for one in trace.nodes])
            answers.append(sorted((places[one.begin], places[one.end], one.kind) for one in trace.edges))
    return known, view.count(), view.weights(WORDS), answers, len(view.saying("pump"))


#: Folders with their labels, the contacts that have them, and who sees them.
FOLDERS = {
    "/diary": ("private", [], ()),
    "/eve": ("shared", ["eve"], ("member",)),
    "/shared": ("shared", ["bob"], ("bob", "member")),
    "/work": ("swarm", [], ("member",)),
}


@pytest.mark.parametrize("who", ["bob", "member"])
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=15, deadline=None)
def test_who_asks_gets_what_it_would_get_if_there_were_nothing_else(who, seed):
    with tempfile.TemporaryDirectory() as folder:
        chosen_ = random.Random(seed)
        all_, alone = HybridStorage(Path(folder) / "all"), HybridStorage(Path(folder) / "alone")

        def fill_all():
            for path, (label, contacts, seen_by) in FOLDERS.items():
                content = chosen_.random()
                for one in (all_, alone) if who in seen_by else (all_,):
                    fill(one, one.add_folder(path, label, contacts).id, random.Random(content))

        fill_all()
        for _ in range(2):
            seen = all_.for_member() if who == "member" else all_.for_contact(who)
            with all_.seen(seen) as found, alone.seen(None) as expected:
                assert told(found) == told(expected)
            fill_all()  # all of it changes
        all_.close()
        alone.close()


@pytest.fixture
def storage(tmp_path):
    made = HybridStorage(tmp_path / "context")
    yield made
    made.close()


def test_who_may_see_which_folders(storage):
    numbers = {
        path: storage.add_folder(path, label, contacts).id
        for path, label, contacts in (("/a", "private", []), ("/b", "swarm", []), ("/c", "shared", ["bob", "eve"]))
    }
    assert storage.for_member() == [numbers["/b"], numbers["/c"]]
    assert storage.for_contact("bob") == [numbers["/c"]]
    assert storage.for_contact("mallory") == []
    storage.unshare("bob")
    assert (storage.for_contact("bob"), storage.for_contact("eve")) == ([], [numbers["/c"]])
    storage.add_folder("/c", "swarm")
    assert storage.for_contact("eve") == []
    storage.remove_folder(numbers["/a"])
    assert storage.for_member() is None


def test_a_view_shows_no_table_of_what_is_not_for_others(storage):
    fill(storage, storage.add_folder("/diary", "private").id, random.Random(1))
    fill(storage, storage.add_folder("/work").id, random.Random(2))
    storage.open_index("m" * 64, "model", 4)
    folder = storage.folder("/work").id
    tables = [
        name for (name,) in storage._database.ask("SELECT name FROM main.sqlite_master WHERE type IN ('table', 'view')")
    ]
    with storage.seen([folder]) as view:
        hidden = []
        for name in tables:
            if not name.startswith(("words_", "sqlite_")):
                try:
                    rows = view._reader.ask(f"SELECT * FROM {name}")  # noqa: S608
                except sqlite3.Error:
                    continue
                if any("diary" in str(row) for row in rows) or (name in ("settings", "entries", "indexes") and rows):
                    hidden.append(name)
        assert hidden == []
        assert view._reader.ask("SELECT 1 FROM relations WHERE passage NOT IN (SELECT id FROM passages)") == []
        assert view._reader.ask("SELECT 1 FROM passages WHERE version NOT IN (SELECT id FROM versions)") == []
        assert view._reader.ask("SELECT 1 FROM versions WHERE source NOT IN (SELECT id FROM sources)") == []
        ((words,),) = view._reader.ask("SELECT count(*) FROM words_docsize")
        assert words == view.count() == len(view.all_among(below=None, kind=None, most=100))


def test_what_was_removed_is_in_no_view_that_is_kept(storage):
    folder = storage.add_folder("/work", "shared", ["bob"]).id
    fill(storage, folder, random.Random(2))
    with storage.seen([folder]) as view:
        assert view.count()
    storage.forget([source.id for source in storage.sources(folder).values()])
    assert storage.scrub()
    with storage.seen([folder]) as view:
        assert (view.count(), view.search("pump boiler fuse garden")) == (0, [])
