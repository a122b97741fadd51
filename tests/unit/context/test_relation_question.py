"""Questions after relations are known by their words, and nothing else is taken for one."""

from __future__ import annotations

import pytest

from ainet.context.relation_question import relation_question


@pytest.mark.parametrize(
    ("question", "kind", "direction", "thing"),
    [
        ("Who calls parse_header?", "calls", "to", "parse_header"),
        ("which functions call the function that reads a line?", "calls", "to", "reads a line"),
        ("where is WorkerPool.lease called?", "calls", "to", "WorkerPool.lease"),
        ("callers of `lease`", "calls", "to", "lease"),
        ("What does run call?", "calls", "from", "run"),
        ("what imports numpy", "imports", "to", "numpy"),
        ("which classes inherit from Base?", "inherits", "to", "Base"),
        ("subclasses of Base", "inherits", "to", "Base"),
        ("What is raised by open_door?", "raises", "from", "open_door"),
        ("who raises KeyError", "raises", "to", "KeyError"),
        ("which code catches NotFound", "catches", "to", "NotFound"),
        ("who reads sales.csv?", "reads", "to", "sales.csv"),
        ("which cells write result.json", "writes", "to", "result.json"),
        ("who uses df?", "calls", "to", "df"),
        ("Where does df come from?", None, "definition", "df"),
        ("where is Engine defined?", None, "definition", "Engine"),
        ("tests of WorkerPool", None, "tests", "WorkerPool"),
        ("What tests the allocator?", None, "tests", "allocator"),
    ],
)
def test_a_relation_is_read_from_a_question(question, kind, direction, thing):
    found = relation_question(question)
    assert found is not None
    assert (found.direction, found.thing) == (direction, thing)
    assert (found.kinds[0] if found.kinds else None) == kind


@pytest.mark.parametrize(
    "question",
    [
        "How do I open a file?",
        "pump replaced",
        "what is the call of the wild",
        "When was the pump replaced?",
        "the reader writes what the writer reads",
        "",
        "?!",
    ],
)
def test_other_questions_ask_for_no_relation(question):
    assert relation_question(question) is None
