"""What the storage knows is what it was told, whatever happened meanwhile."""

from __future__ import annotations

import random
import sqlite3
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.storing import change, fingerprint, passages, write

from ainet.errors import AinetError, NotEnough, NotFound
from ainet.storage.hybrid import HybridStorage
from ainet.storage.records import Passage


@pytest.fixture
def storage(tmp_path):
    made = HybridStorage(tmp_path / "context")
    yield made
    assert made.check() == []
    made.close()


def texts(storage, question, **options):
    """The passages that are found."""
    return [one.passage.text for one in storage.passages([found.id for found in storage.search(question, **options)])]


def known(storage, folder):
    """The sources of a folder, and what they say."""
    found = {}
    for path, source in storage.sources(folder).items():
        rows = storage._database.ask(
            "SELECT current_passages.id FROM current_passages JOIN versions v ON v.id = version WHERE source = ?",
            (source.id,),
        )
        found[path] = [one.passage.text for one in storage.passages([number for (number,) in rows])]
    return found


def test_a_version_is_found_once_it_is_committed_and_no_longer_than_it_is_current(storage):
    folder = storage.add_folder("/home/ada").id
    version = storage.stage(folder, "a.txt", fingerprint("one"), parser="p", passages=passages("apples\nplums"))
    assert texts(storage, "apples") == []
    assert storage.sources(folder) == {}
    storage.commit(version)
    assert texts(storage, "apple") == ["apples"]
    write(storage, folder, "a.txt", "cherries")
    assert texts(storage, "apple") == []
    assert texts(storage, "cherry") == ["cherries"]
    with pytest.raises(NotFound):
        storage.commit(version)
    storage.remove(storage.sources(folder)["a.txt"].id)
    assert texts(storage, "cherry") == []
    assert storage.sources(folder) == {}


def test_where_a_passage_stands_is_told_with_it(storage):
    folder = storage.add_folder("/home/ada", "private")
    passage = Passage("def parse(): ...", "function", "reader.parse", 3, 9, "cell7")
    storage.commit(storage.stage(folder.id, "b/c.py", fingerprint("x"), parser="py", passages=[passage]))
    (found,) = storage.passages([found.id for found in storage.search("parse")])
    assert (found.folder, found.path, found.passage) == ("/home/ada", "b/c.py", passage)
    (source,) = storage.sources(folder.id).values()
    assert (source.parser, source.passages, source.fingerprint) == ("py", 1, fingerprint("x"))
    assert storage.folder("/home/ada").label == "private"
    with pytest.raises(NotFound, match="/home/eve was not added"):
        storage.folder("/home/eve")


def test_paths_names_and_the_words_of_identifiers_are_found(storage):
    folder = storage.add_folder("/home/ada").id
    for path, name, text in (
        ("billing/invoice_totals.py", "sumUp", "return 1"),
        ("other.py", "Nothing", "value = parseHTTPHeader(line)"),
        ("third.py", "Else", "nothing of interest"),
    ):
        one = Passage(text, "function", name)
        storage.commit(storage.stage(folder, path, fingerprint(text), parser="p", passages=[one]))
    assert texts(storage, "invoice totals") == ["return 1"]
    assert texts(storage, "where do we sum up") == ["return 1"]
    assert texts(storage, "http header") == ["value = parseHTTPHeader(line)"]
    assert texts(storage, "parseHTTPHeader") == ["value = parseHTTPHeader(line)"]
    assert texts(storage, "nothing")[0] in ("value = parseHTTPHeader(line)", "nothing of interest")
    assert texts(storage, '"*) OR NEAR(') == []


def test_neighbours_of_a_question_are_found_beside_each_other(storage):
    folder = storage.add_folder("/f").id
    write(storage, folder, "a.txt", "virtual environments\nvirtual\nenvironments")
    texts = [
        "The pool of workers starts threads.",  # stop words stand between no neighbours
        "Workers of the pool start a thread.",
        "pool workers, and again pool workers; threads start",
        "nothing of it",
    ]
    assert storage.together("pool workers start threads", texts) == pytest.approx([1.0, 1 / 3, 1 / 3, 0.0])
    assert storage.together("pool", texts) == storage.together("", texts) == [0.0] * 4
    (rare, common) = storage.together("quagmire virtual environments", ["a quagmire, virtual", "virtual environments"])
    assert rare > common


def test_a_search_may_be_limited_to_folders(storage):
    one, other = storage.add_folder("/one").id, storage.add_folder("/other").id
    write(storage, one, "a.txt", "apples here")
    write(storage, other, "a.txt", "apples there")
    assert texts(storage, "apples", below="/one") == ["apples here"]
    assert texts(storage, "apples", below="/one/b.txt") == []
    assert set(texts(storage, "apples")) == {"apples here", "apples there"}
    storage.remove_folder(one)
    assert texts(storage, "apples") == ["apples there"]
    assert [folder.path for folder in storage.folders()] == ["/other"]


def test_a_source_that_moves_keeps_its_passages(storage):
    folder = storage.add_folder("/home/ada").id
    write(storage, folder, "old_name.txt", "apples")
    (before,) = storage.search("apples")
    source = storage.sources(folder)["old_name.txt"]
    storage.move(source.id, "new_place.txt", 5)
    moved = storage.sources(folder)["new_place.txt"]
    assert (moved.id, moved.fingerprint.modified) == (source.id, 5)
    assert storage.search("apples") == [before]
    assert texts(storage, "place") == ["apples"]
    assert texts(storage, "old_name") == []


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 40))
def test_any_sequence_of_changes_ends_where_it_should(tmp_path_factory, seed, n):
    storage = HybridStorage(tmp_path_factory.mktemp("context"))
    folder, expected, chosen = storage.add_folder("/f").id, dict[str, str](), random.Random(seed)
    for number in range(n):
        change(storage, folder, expected, chosen, number)
    assert known(storage, folder) == {path: text.splitlines() for path, text in expected.items()}
    assert storage.check() == []
    for path, text in expected.items():
        assert text.splitlines()[0] in texts(storage, text.splitlines()[0]), path
    storage.close()


def test_what_was_removed_is_in_no_file_after_scrubbing(storage, tmp_path):
    folder = storage.add_folder("/home/ada").id
    for number in range(200):
        write(storage, folder, f"{number}.txt", f"word{number} in between\nmore of it {number}")
    write(storage, folder, "secret.txt", "xylophonist quagmire")
    storage.remove(storage.sources(folder)["secret.txt"].id)
    assert texts(storage, "xylophonist") == []
    assert storage.scrub()
    found = b"".join(path.read_bytes() for path in (tmp_path / "context").iterdir())
    assert b"word199" in found
    for part in (b"xylophon", b"quagmir", b"secret"):
        assert part not in found.lower()


def test_a_reader_in_the_way_of_scrubbing_is_told(storage, tmp_path):
    folder = storage.add_folder("/home/ada").id
    write(storage, folder, "a.txt", "apples")
    other = sqlite3.connect(tmp_path / "context/context.sqlite", isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM passages").fetchone()
    storage.remove(storage.sources(folder)["a.txt"].id)
    storage._database.writer.execute("PRAGMA busy_timeout = 50")
    assert not storage.scrub()
    other.close()
    assert storage.scrub()


def test_staged_versions_are_dropped_at_the_next_start(tmp_path):
    storage = HybridStorage(tmp_path)
    folder = storage.add_folder("/home/ada").id
    write(storage, folder, "a.txt", "apples")
    storage.stage(folder, "a.txt", fingerprint("x"), parser="p", passages=passages("plums"))
    storage.stage(folder, "b.txt", fingerprint("x"), parser="p", passages=passages("plums"))
    storage.close()
    storage = HybridStorage(tmp_path)
    assert known(storage, folder) == {"a.txt": ["apples"]}
    assert storage._database.ask("SELECT count(*) FROM passages") == [(1,)]
    assert storage._database.ask("SELECT count(*) FROM sources") == [(1,)]
    storage.close()


def test_a_damaged_index_is_noticed_and_made_anew(tmp_path):
    storage = HybridStorage(tmp_path)
    folder = storage.add_folder("/home/ada").id
    write(storage, folder, "a.txt", "apples")
    storage._database.writer.execute("UPDATE passages SET text = 'plums'")
    assert ["The index of words" in line for line in storage.check()] == [True]
    storage.rebuild()
    assert storage.check() == []
    assert texts(storage, "plums") == ["plums"]
    storage.close()


def test_readers_and_writers_do_not_wait_for_each_other(storage):
    folder = storage.add_folder("/home/ada").id
    write(storage, folder, "a.txt", "apples")
    failed = []

    def ask():
        try:
            for _ in range(100):
                assert texts(storage, "apples") in (["apples"], ["more apples"], [])  # it may be replaced in between
        except Exception as exc:
            failed.append(exc)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(40):
        write(storage, folder, "a.txt", ["apples", "more apples"][number % 2])
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_full_disk_and_a_read_only_one_are_said_and_nothing_is_lost(tmp_path):
    storage = HybridStorage(tmp_path)
    folder = storage.add_folder("/home/ada").id
    write(storage, folder, "a.txt", "apples")
    (pages,) = storage._database.writer.execute("PRAGMA page_count").fetchone()
    storage._database.writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(NotEnough, match="The disk is full"):
        write(storage, folder, "b.txt", "plums\n" * 2000)
    storage._database.writer.execute("PRAGMA max_page_count = 1000000")
    storage._database.writer.execute("PRAGMA query_only = ON")
    with pytest.raises(AinetError, match="cannot be written"):
        write(storage, folder, "b.txt", "plums")
    storage._database.writer.execute("PRAGMA query_only = OFF")
    assert known(storage, folder) == {"a.txt": ["apples"]}
    write(storage, folder, "b.txt", "plums")
    assert storage.check() == []
    storage.close()


def test_a_file_that_is_damaged_while_it_is_open_is_said(tmp_path):
    storage = HybridStorage(tmp_path)
    folder = storage.add_folder("/home/ada").id
    write(storage, folder, "a.txt", "apples\n" * 3000)
    assert storage.scrub()
    path = tmp_path / "context.sqlite"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
    storage._database.connection.execute("PRAGMA shrink_memory")
    with pytest.raises(AinetError, match="is damaged"):
        storage.search("apples")
    storage.close()


def test_what_was_removed_stays_noted_until_the_disk_is_free_of_it(tmp_path):
    storage = HybridStorage(tmp_path)
    folder = storage.add_folder("/home/ada").id
    write(storage, folder, "a.txt", "quagmire")
    assert storage.is_scrubbed()
    reader = sqlite3.connect(tmp_path / "context.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM passages").fetchone()
    storage.remove(storage.sources(folder)["a.txt"].id)
    assert not storage.scrub()
    assert not storage.is_scrubbed()
    storage.close()
    reader.close()
    storage = HybridStorage(tmp_path)  # also after an end in between
    assert not storage.is_scrubbed()
    assert storage.scrub()
    assert storage.is_scrubbed()
    assert all(b"quagmire" not in path.read_bytes() for path in tmp_path.iterdir())
    storage.close()


def test_a_database_of_the_first_version_is_taken_over(tmp_path):
    storage = HybridStorage(tmp_path)
    write(storage, storage.add_folder("/home/ada").id, "a.txt", "apples")
    write(storage, storage.add_folder("/home/diary", "private").id, "b.txt", "plums")
    storage.close()
    old = sqlite3.connect(tmp_path / "context.sqlite")
    old.executescript(
        "DROP TABLE entries; DROP TABLE audiences; ALTER TABLE folders DROP COLUMN origin;"
        "ALTER TABLE versions DROP COLUMN dated; DROP INDEX unembedded_own; ALTER TABLE unembedded DROP COLUMN is_own;"
        "PRAGMA user_version = 1"
    )
    old.close()
    storage = HybridStorage(tmp_path)
    assert [(folder.path, folder.origin) for folder in storage.folders()] == [("/home/ada", ""), ("/home/diary", "")]
    assert texts(storage, "apples") == ["apples"]
    assert storage.replicas.sign(lambda _entry: b"s" * 64) > 0
    assert len(storage.replicas.since("", 0, 10)) == 1  # the diary is nobody else's
    assert storage.check() == []
    storage.close()
