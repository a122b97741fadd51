"""Full text search: all words rank what rare words find, whoever adds up their scores."""

import random
import sqlite3

import pytest
from support.storing import fingerprint

from ainet.storage import full_text
from ainet.storage.asked_terms import OTHER, SILENT, AskedTerms
from ainet.storage.hybrid import HybridStorage
from ainet.storage.question import Stemmer
from ainet.storage.records import Passage

WORDS = ("heron", "kettle", "marble", "orchid", "piston", "quarry", "saddle", "timber", "Été", "parse_url", "running")
COMMON = ("value", "list", "name")


@pytest.fixture
def storage(tmp_path):
    """Return a storage of passages with common words, in which others are rare."""
    chosen = random.Random(4)
    storage = HybridStorage(tmp_path)
    folder = storage.add_folder("/home/ana").id
    for number in range(400):
        words = [chosen.choice(WORDS)] * (number % 40 == 0) + chosen.choices(COMMON, k=chosen.randrange(3, 12))
        chosen.shuffle(words)
        passage = Passage(f"{' '.join(words)}, and more of {number}.", "section", name=chosen.choice(COMMON))
        path = f"{number}.md"
        storage.commit(storage.stage(folder, path, fingerprint(path), parser="p", passages=[passage]))
    yield storage
    storage.close()


@pytest.mark.parametrize(
    "question", ["heron value", "the name of a kettle in a list", "marble orchid value name list", "piston name name"]
)
def test_passages_that_rare_words_put_forward_are_ranked_as_fts5_would(storage, question, monkeypatch):
    monkeypatch.setattr("ainet.storage.question.FEW", 10)
    expected = storage.search(question, 20)
    monkeypatch.setattr(full_text, "OFTEN", 0)
    found = storage.search(question, 20)
    assert len(found) > 1
    assert {one.id: pytest.approx(one.score) for one in expected} == {one.id: one.score for one in found}
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    monkeypatch.setattr(full_text, "PUT_FORWARD", 1)
    assert len(storage.search(question, 1)) == 1


def test_how_many_passages_there_are_is_what_fts5_counts(storage):
    assert storage.count() == 400
    storage.remove(storage.sources(1)["3.md"].id)
    assert storage.count() == 399


def test_words_that_many_have_are_counted_again_when_much_has_changed(storage, monkeypatch):
    monkeypatch.setattr(full_text, "MANY", 100)
    asked = []
    with storage._database.reading() as database:
        found = full_text.FullText(database)
        database.set_trace_callback(lambda line: asked.append(line) if "vocabulary" in line else None)
        first = found.weights(["valu"])
        assert found.weights(["valu"]) == first
        assert len(asked) == 1
        monkeypatch.setattr(full_text, "CHANGED", 1_000_000)  # a part of a passage is a change now
        found._sizes = lambda: (401, 4000)
        assert found.weights(["valu"]) != first
        found.recount()
        found.weights(["valu"])
        database.set_trace_callback(None)
        found.close()
    assert len(asked) == 3


def test_what_a_text_has_of_a_question():
    stemmer = Stemmer()
    terms = AskedTerms(["run", "url", "et"], stemmer)
    texts = ["She was Running the parse_url (run!) of it.", "Été", "nothing", ""]
    assert terms.order(texts)[0] == [SILENT, SILENT, "run", SILENT, OTHER, "url", "run", SILENT, SILENT]
    assert terms.frequencies(texts) == [{"run": 2, "url": 1}, {"et": 1}, {}, {}]
    stemmer.close()


def test_an_empty_index_has_no_passages():
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.execute("CREATE VIRTUAL TABLE words USING fts5 (text)")
    found = full_text.FullText(database)
    assert found.count() == 0
    found.close()
    database.close()
