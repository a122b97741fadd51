"""The passages that answer come first: by words, by meaning, by relations, and by what is known of files."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.storing import fingerprint

from ainet.context.retriever import STATIC, Retriever, fuse, weight_of
from ainet.passages.parse import parse
from ainet.storage.hybrid import HybridStorage
from ainet.storage.records import Fingerprint, Found

TERMS, STATEMENT, QUESTION = STATIC

FILES = {
    "shop/orders.py": '''
"""Orders."""


class Order(Base):
    """What somebody wants."""

    def total(self):
        """Add up prices."""
        return vat(sum(self.prices))


def vat(price):
    """Add value added tax."""
    if price < 0:
        raise NegativePrice(price)
    return 1.19 * price


class NegativePrice(ValueError):
    pass
''',
    "shop/__init__.py": "from shop.orders import vat\n",
    "shop/till.py": """
from shop.orders import vat, Order, NegativePrice


def charge(price):
    try:
        return vat(price)
    except NegativePrice:
        return 0


def other(thing):
    return thing.total()
""",
    "tests/test_orders.py": "from shop.orders import vat\n\n\ndef test_vat():\n    assert vat(100) == 119\n",
    "else/vat.py": "def vat(country):\n    return country\n\n\ndef use():\n    return vat('de')\n",
    "data/report.py": "def report():\n    return open('data/sales.csv').read() + open('x/other.csv').read()\n",
    "data/make.py": "def make():\n    open('data/sales.csv', 'w').write('1')\n",
    "notes.md": (
        "# Links\nSee [sales](data/sales.csv), `Order.total` and `charge()`.\n\n"
        "# Money\nThe value added tax is 19 percent.\n\n# Pets\nThe cat sleeps.\n"
    ),
}


@pytest.fixture
def storage(tmp_path):
    made = HybridStorage(tmp_path / "context")
    folder = made.add_folder("/f").id
    for path, text in FILES.items():
        made.commit(made.stage(folder, path, fingerprint(text), parser="p", passages=parse(path, text.encode())))
    yield made
    assert made.check() == []
    made.close()


def names(storage, question, **options):
    return [(one.passage.path, one.passage.passage.name) for one in Retriever(storage).find(question, **options)]


def test_who_calls_it_is_not_who_calls_something_of_that_name(storage):
    found = names(storage, "who calls vat in shop.orders")  # described, not named
    assert ("shop/till.py", "charge") in found[:4]
    found = names(storage, "who calls shop.orders.vat?")
    assert found[:3] == [
        ("shop/orders.py", "Order.total"),
        ("shop/till.py", "charge"),
        ("tests/test_orders.py", "test_vat"),
    ]
    reasons = [one.reason for one in Retriever(storage).find("who calls shop.orders.vat?")][:3]
    assert set(reasons) == {"calls shop.orders.vat"}
    assert names(storage, "who calls else.vat.vat")[0] == ("else/vat.py", "use")


@pytest.mark.parametrize(
    ("question", "first"),
    [
        ("which functions call the function that adds value added tax", ("shop/orders.py", "Order.total")),
        ("tests of shop.orders.vat", ("tests/test_orders.py", "test_vat")),
        ("what does charge call?", ("shop/orders.py", "vat")),
        ("who raises NegativePrice?", ("shop/orders.py", "vat")),
        ("who catches NegativePrice?", ("shop/till.py", "charge")),
        ("where is NegativePrice defined?", ("shop/orders.py", "NegativePrice")),
        ("who inherits from ValueError", ("shop/orders.py", "NegativePrice")),
        ("who reads sales.csv?", ("data/report.py", "report")),
        ("who reads data/sales.csv?", ("data/report.py", "report")),
        ("which functions write sales.csv", ("data/make.py", "make")),
        ("what links to sales.csv", ("notes.md", "Links")),
        ("what mentions charge?", ("notes.md", "Links")),
        ("where is Order.total mentioned?", ("notes.md", "Links")),
    ],
)
def test_relations_are_followed(storage, question, first):
    assert names(storage, question)[0] == first


def test_relations_stay_within_the_folder_that_is_asked(storage):
    assert names(storage, "who calls shop.orders.vat?", below="/f/tests")[0][0] == "tests/test_orders.py"
    assert {path for path, _ in names(storage, "who calls shop.orders.vat?", below="/f/tests")} == {
        "tests/test_orders.py"
    }


def test_definitions_come_before_tests_and_faces(storage):
    found = names(storage, "NegativePrice class")
    assert found[0] == ("shop/orders.py", "NegativePrice")
    paths = [path for path, _ in names(storage, "vat")]
    assert paths.index("shop/orders.py") < paths.index("tests/test_orders.py")
    assert paths.index("shop/orders.py") < paths.index("shop/__init__.py")


def test_meaning_counts_where_words_do_not_say_it_all(storage):
    cat = next(one for one in storage.search("cat"))
    found = Retriever(storage).find("Where do kittens nap?", vectors=[Found(cat.id, 0.8)])
    assert [(one.passage.passage.name, one.reason) for one in found] == [("Pets", "meaning")]
    assert Retriever(storage).find("Where do kittens nap?", vectors=[Found(cat.id, 0.1)]) == []
    assert Retriever(storage).find("kittens", vectors=[Found(cat.id, 0.8)]) == []  # a term, not a question


def test_of_what_fits_as_well_the_newer_comes_first_and_of_the_rest_what_fits(tmp_path):
    storage = HybridStorage(tmp_path / "context")
    folder = storage.add_folder("/f").id
    now, year = time.time_ns(), 365 * 24 * 3600 * 10**9
    for path, text, written in (
        ("a.txt", "The pump hums in May.", now - year),
        ("b.txt", "The pump hums in June.", now),
        ("c.txt", "A pump, or several, and of many things that stand in the cellar some hum at night.", now),
    ):
        version = Fingerprint(len(text), written, text.encode())
        storage.commit(storage.stage(folder, path, version, parser="p", passages=parse(path, text.encode())))
    assert [one.passage.path for one in Retriever(storage).find("the pump hums")] == ["b.txt", "a.txt", "c.txt"]
    storage.close()


def test_neighbours_of_the_question_come_before_words_that_stand_apart(tmp_path):
    storage = HybridStorage(tmp_path / "context")
    folder = storage.add_folder("/f").id
    for path, text in (
        ("apart.txt", "workers threads pool starts"),
        ("beside.txt", "pool workers starts threads"),
        *((f"{n}.txt", f"something else {n}") for n in range(9)),
    ):
        storage.commit(storage.stage(folder, path, fingerprint(text), parser="p", passages=parse(path, text.encode())))
    assert Retriever(storage).find("what the pool workers do")[0].passage.path == "beside.txt"
    storage.close()


def test_what_is_said_twice_is_found_once_and_no_file_takes_all_places(tmp_path):
    storage = HybridStorage(tmp_path / "context")
    folder = storage.add_folder("/f").id
    for path, lines in (("a.txt", 6), ("b.txt", 1), ("c.txt", 1)):
        text = "\n\n".join(f"apples {'apples ' * (9 - i)} {path[:1] * (i + 1)}" for i in range(lines))
        passages = [one for line in text.split("\n\n") for one in parse(path, line.encode())]
        storage.commit(storage.stage(folder, path, fingerprint(text), parser="p", passages=passages))
    copied = parse("d.txt", f"apples {'apples ' * 9} a".encode())  # as the first of a.txt
    storage.commit(storage.stage(folder, "d.txt", fingerprint("d"), parser="p", passages=copied))
    found = Retriever(storage).find("apples", 10)
    assert len({one.passage.passage.text for one in found}) == len(found) == 8
    assert [one.passage.path for one in found[:5]].count("a.txt") <= 3  # there are no more others
    storage.close()


@pytest.mark.parametrize(
    ("question", "weight"),
    [
        ("parse_header", TERMS),
        ("value added tax", TERMS),
        ("Why is the sky blue?", QUESTION),
        ("how to open a file", QUESTION),
        ("Return the name of the file", STATEMENT),
    ],
)
def test_vectors_count_by_the_kind_of_question(question, weight):
    assert weight_of(question) == weight


@given(
    st.lists(st.tuples(st.integers(0, 9), st.floats(0.01, 9)), max_size=9, unique_by=lambda one: one[0]),
    st.lists(st.tuples(st.integers(0, 9), st.floats(0.4, 1)), max_size=9, unique_by=lambda one: one[0]),
    st.floats(0, 1),
)
def test_what_both_find_is_not_behind_what_one_finds(words, vectors, weight):
    scores = fuse([Found(*one) for one in words], [Found(*one) for one in vectors], weight)
    assert set(scores) == {one for one, _ in words} | ({one for one, _ in vectors} if weight else set())
    by_word, by_vector = dict(words), dict(vectors)
    for one in by_word.keys() & by_vector.keys():
        for other in by_word.keys() - by_vector.keys():
            if by_word[one] >= by_word[other]:
                assert scores[one] >= scores[other]
