"""What a shared variable takes, and in which types it gives it back."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycrdt import Array, Doc, Map, Text

from ainet.client.shared_values import MAX_DEPTH, MOST_INT, plain, typed
from ainet.client.shared_variables import SharedDict, SharedList, SharedText
from ainet.errors import UsageError


class Replica(SimpleNamespace):
    """A document without a node."""

    def __init__(self):
        super().__init__(doc=Doc(), lock=Doc().transaction(), name="x", connected=False, is_remote=False)


class NoLock:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def replica():
    made = Replica()
    made.lock = NoLock()
    return made


@pytest.fixture
def shared():
    own = replica()
    return {
        "dict": SharedDict(own, own.doc.get("dict", type=Map)),
        "list": SharedList(own, own.doc.get("list", type=Array)),
        "text": SharedText(own, own.doc.get("text", type=Text)),
    }


def elsewhere(variable):
    """Return the value as another process reads it."""
    other = Doc()
    other.apply_update(variable._replica.doc.get_update())
    root = {"SharedDict": ("dict", Map), "SharedList": ("list", Array)}[type(variable).__name__]
    return typed(other.get(root[0], type=root[1]).to_py())


def exact(value):
    """Return a value with the types of its parts."""
    if isinstance(value, dict):
        return {key: exact(one) for key, one in value.items()}
    return [exact(one) for one in value] if isinstance(value, list) else (type(value), value)


FRACTIONS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not x.is_integer() or abs(x) > MOST_INT)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MOST_INT, MOST_INT) | FRACTIONS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_every_value_comes_back_as_it_was(value):
    own = replica()
    variable = SharedDict(own, own.doc.get("dict", type=Map))
    variable["x"] = value
    assert exact(variable["x"]) == exact(value)
    assert exact(variable.to_py()) == exact(elsewhere(variable)) == exact({"x": value})
    rows = SharedList(own, own.doc.get("list", type=Array))
    rows.append(value)
    rows += [value, 1]
    assert exact(rows[:]) == exact(elsewhere(rows)) == exact([value, value, 1])


@pytest.mark.parametrize("value", [0, 1, -1, 2**31, -(2**31), 2**40, MOST_INT, -MOST_INT, [1, [2, {"a": 3}]], True])
def test_an_int_is_an_int(shared, value):
    shared["dict"]["x"] = value
    assert exact(elsewhere(shared["dict"])["x"]) == exact(value)


def cyclic():
    inner = []
    inner.append({"x": inner})
    return inner


def deep(n):
    value = 1
    for _ in range(n):
        value = [value]
    return value


REFUSED = [
    (2**53, "more than 53 bits"),
    (-(2**53), "more than 53 bits"),
    (10**30, "more than 53 bits"),
    ([1, {"a": 2**63}], "more than 53 bits"),
    (float("nan"), "no number that JSON has"),
    ({"a": [float("-inf")]}, "no number that JSON has"),
    ("a\ud83d", "character 1 is half of a surrogate pair"),
    ({"\udc00": 1}, "A key cannot be shared"),
    (cyclic(), "it holds itself"),
    (deep(MAX_DEPTH + 1), f"more than {MAX_DEPTH} lists and dicts"),
    (b"x", "A bytes cannot be shared"),
    ({1: 2}, "A dict cannot be shared"),
    (object(), "A object cannot be shared"),
    (itertools.count(), "more than 1,000,000 values"),
    (1j, "A complex cannot be shared"),
]


@pytest.mark.parametrize(("value", "words"), REFUSED)
def test_what_cannot_be_shared_is_said_before_anything_changes(shared, value, words):
    mapping, rows = shared["dict"], shared["list"]
    mapping["kept"] = 1
    rows.extend([1, 2, 3])
    update = mapping._replica.doc.get_update()
    for change in (
        lambda: mapping.__setitem__("x", value),
        lambda: mapping.update({"a": 1, "b": value}),
        lambda: mapping.setdefault("x", value),
        lambda: rows.append(value),
        lambda: rows.extend([7, value]),
        lambda: rows.insert(0, value),
        lambda: rows.__setitem__(1, value),
        lambda: rows.__setitem__(slice(0, 2), [7, value]),
    ):
        with pytest.raises(UsageError, match=words):
            change()
    assert mapping._replica.doc.get_update() == update
    assert (mapping.to_py(), rows.to_py()) == ({"kept": 1}, [1, 2, 3])


def test_numbers_of_other_kinds_are_numbers():
    assert exact(plain([np.int64(3), np.float32(0.5), np.bool_(True) == np.True_, (1, 2), {3}])) == exact(
        [3, 0.5, True, [1, 2], [3]]
    )
    assert exact(plain(np.arange(3))) == exact([0, 1, 2])
    assert exact(plain(deep(MAX_DEPTH))) == exact(deep(MAX_DEPTH))


@given(
    st.lists(st.integers(0, 9), max_size=8),
    st.slices(8),
    st.lists(st.integers(10, 19), max_size=4),
)
def test_slices_are_those_of_a_list(values, part, new):
    for change in ("set", "delete"):
        own = replica()
        rows = SharedList(own, own.doc.get("list", type=Array))
        rows.extend(values)
        wanted, error = list(values), None
        try:
            if change == "set":
                wanted[part] = new
            else:
                del wanted[part]
        except ValueError as exc:
            error = exc
        if error is not None:
            with pytest.raises(ValueError, match="attempt to assign"):
                rows[part] = new
        elif change == "set":
            rows[part] = new
        else:
            del rows[part]
        assert rows.to_py() == (wanted or rows.to_py() or [])
        assert len(rows) == len(wanted)


@given(TEXTS, st.integers(-9, 9), TEXTS, st.integers(-9, 9))
def test_places_in_a_text_are_those_of_its_characters(text, index, new, end):
    own = replica()
    variable = SharedText(own, own.doc.get("text", type=Text))
    variable.append(text)
    variable.insert(index, new)
    wanted = text[:index] + new + text[index:]
    assert str(variable) == wanted
    variable.delete(index, end)
    wanted = list(wanted)
    del wanted[index:end]
    assert str(variable) == "".join(wanted)


@pytest.mark.parametrize("value", ["\ud83d", 7, None, b"x"])
def test_what_is_no_text_is_said(shared, value):
    for change in (lambda: shared["text"].append(value), lambda: shared["text"].insert(0, value)):
        with pytest.raises(UsageError, match="text"):
            change()
    assert str(shared["text"]) == ""


def test_keys_that_are_not_there_are_key_errors(shared):
    for key in ("x", "\ud83d", 3, None):
        assert key not in shared["dict"]
        with pytest.raises(KeyError):
            shared["dict"][key]
        with pytest.raises(KeyError):
            del shared["dict"][key]
