"""The words of a question, and of identifiers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainet.storage.identifiers import parts, split_identifiers
from ainet.storage.question import Question, Stemmer, words_of


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("parseHTTPHeader", ["parse", "HTTP", "Header"]),
        ("parse_http_header", ["parse", "http", "header"]),
        ("HybridStorage", ["Hybrid", "Storage"]),
        ("n_ubatch", ["n", "ubatch"]),
        ("SHA256sum", ["SHA", "256", "sum"]),
        ("__init__", ["init"]),
        ("word", ["word"]),
        ("größteZahl", ["größte", "Zahl"]),
        ("LOUD", ["LOUD"]),
    ],
)
def test_identifiers_are_split_as_people_read_them(name, words):
    assert parts(name) == words


@given(st.from_regex(r"[A-Za-z0-9_]+", fullmatch=True))
def test_no_letter_of_an_identifier_is_lost(name):
    assert "".join(parts(name)) == name.replace("_", "")


def test_what_full_text_search_splits_itself_is_not_split_twice():
    assert split_identifiers("parse_http_header(parseHTTPHeader, word, LOUD, parseHTTPHeader)") == "parse HTTP Header"


def test_a_question_is_asked_without_words_that_say_nothing():
    assert words_of("How do I open the WorkerPool of a node?") == ["open", "WorkerPool", "Worker", "Pool", "node"]
    assert words_of("who are you") == ["who", "are", "you"]  # where there are no others
    assert words_of("?!") == []


def test_terms_are_those_of_the_index():
    stemmer = Stemmer()
    assert stemmer.terms(["running", "a_b", "é", "—", "Pools"]) == [["run"], ["a", "b"], ["e"], [], ["pool"]]
    assert stemmer.terms(["running"]) == [["run"]]
    stemmer.close()


def test_rare_words_find_passages_and_common_ones_rank_them():
    counts = {"common": 900_000, "often": 300_000, "some": 15_000, "few": 3000, "one": 1, "never": 0}

    def match(*words):
        asked = Question.of(list(words), [[word] for word in words], 1_000_000, lambda term: counts[term])
        assert not asked.ranking or set(asked.ranking) == {(word,) for word in words if counts[word]}
        return asked.ranked

    assert match("common", "often", "some", "few", "one", "never") == (
        '("one" OR "few") AND ("one" OR "few" OR "some" OR "often" OR "common")'
    )
    assert match("common", "often", "some", "one") == (
        '("one" OR ("some" AND "often")) AND ("one" OR "some" OR "often" OR "common")'
    )
    assert match("common", "few") == '("few") AND ("few" OR "common")'
    assert match("common", "often") == '(("often" AND "common")) AND ("often" OR "common")'
    assert match("common") == '"common"'
    assert match("few") == '"few"'
    assert match("never") == ""
    assert match() == ""
