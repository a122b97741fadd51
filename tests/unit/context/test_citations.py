"""A sentence is cited where a passage says the same, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainet.context.citations import Citations, compared, sentences_of
from ainet.storage.question import Stemmer

PASSAGES = [
    "The pump in the cellar was replaced on 12 May 2024 by Meyer. It moves 40 litres a minute.",
    "The boiler is serviced every year in October. Its pressure must stay below 2.5 bar.",
    "Ada's password manager is on the old laptop. The laptop is in the attic.",
]


@pytest.fixture
def citations():
    stemmer = Stemmer()
    yield Citations(lambda _term: 1.0, stemmer)
    stemmer.close()


@pytest.mark.parametrize(
    ("sentence", "passage"),
    [
        ("The pump in the cellar was replaced on 12 May 2024 by Meyer.", 0),
        ("It moves 40 litres a minute.", 0),
        ("The boiler is serviced every October.", 1),
        ("The pressure must stay below 2.5 bar.", 1),
        ("The pressure must stay below 3.5 bar.", None),  # another number
        ("The pump in the cellar was replaced on 12 May 2024 by Schulze.", None),  # another name
        ("The laptop is in the attic.", 2),
        ("The weather will be nice tomorrow.", None),
        ("Yes.", None),
        ("The the of and.", None),
    ],
)
def test_what_a_passage_says_is_cited_and_what_it_does_not_is_not(citations, sentence, passage):
    (found,) = citations.cite(sentence, PASSAGES)
    assert found.passage == passage
    if passage is not None:
        assert found.source.text in PASSAGES[passage]
        assert found.score >= 0.7


def test_each_sentence_is_cited_by_itself(citations):
    answer = "- The boiler is serviced every year in October.\n- I like tea.\nThe laptop is in the attic. Bye."
    assert [(one.sentence.text, one.passage) for one in citations.cite(answer, PASSAGES)] == [
        ("The boiler is serviced every year in October.", 1),
        ("I like tea.", None),
        ("The laptop is in the attic.", 2),
        ("Bye.", None),
    ]


def test_rare_words_count_more(tmp_path):
    stemmer = Stemmer()
    weights = {"pump": 0.1, "replac": 0.1, "quagmir": 9.0}
    citations = Citations(lambda term: weights.get(term, 1.0), stemmer)
    (found,) = citations.cite("The pump was replaced in the quagmire.", ["The pump was replaced."])
    assert found.passage is None
    (found,) = citations.cite("A pump in a quagmire.", ["The quagmire swallowed it, pump and all."])
    assert found.score > 0.59
    stemmer.close()


def test_without_passages_nothing_is_cited(citations):
    assert [one.passage for one in citations.cite("The laptop is in the attic.", [])] == [None]
    assert citations.cite("", PASSAGES) == []


@given(st.text(max_size=200))
def test_sentences_are_parts_of_the_text_in_their_order(text):
    last = 0
    for one in sentences_of(text):
        assert text[one.begin : one.end] == one.text
        assert one.text == one.text.strip() != ""
        assert last <= one.begin < one.end
        last = one.end


@given(st.text(max_size=100), st.lists(st.text(max_size=100), max_size=3))
def test_any_text_can_be_compared(answer, passages):
    stemmer = Stemmer()
    for one in Citations(lambda _term: 1.0, stemmer).cite(answer, passages):
        assert 0 <= one.score <= 1.0001
        assert one.passage is None or one.passage < len(passages)
    stemmer.close()


def test_words_of_the_question_do_not_make_an_answer_less_sure(citations):
    passages = ['def symbol_of(passage):\n    """Return the name that a passage defines, without what it stands in."""']
    answer = "The function symbol_of returns the name that a passage defines, without what it stands in."
    assert citations.cite(answer, passages)[0].passage is None
    assert citations.cite(answer, passages, "What does the function symbol_of return for a passage?")[0].passage == 0
    wrong = "The function symbol_of returns the colour of the sky."
    assert citations.cite(wrong, passages, "What does the function symbol_of return for a passage?")[0].passage is None


def test_what_means_the_same_is_cited_and_earlier_where_no_other_passage_does(citations):
    passages = ["The pump was replaced in May.", "A pump is loud.", "The attic is dry."]
    answer = "In May they replaced the old noisy pump."
    assert compared(answer, passages) == ([answer], passages)
    assert citations.cite(answer, passages)[0].passage is None

    def cited(*similar):
        (found,) = citations.cite(answer, passages, similar=[similar])
        return found.passage

    assert cited(0.95, 0.3, 0.2) == 0
    assert cited(0.95, 0.9, 0.2) is None  # another one says nearly as much
    assert cited(0.6, 0.3, 0.2) is None
    assert cited(0.2, 0.3, 1.0) is None  # no word of it is there
    (found,) = citations.cite("In June they replaced the pump, all 40 of them.", passages, similar=[(1.0, 0.1, 0.1)])
    assert found.passage is None  # numbers must be there all the same
    assert citations.cite(answer, passages[:1], similar=[(0.95,)])[0].passage == 0
    assert citations.cite(answer, [], similar=[()])[0].passage is None
