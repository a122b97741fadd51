"""Patterns: whatever an answer contains matches in Python's dialect, and what is meant is not lost."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.json_schemas import accepts

from ainet.errors import UsageError
from ainet.stages.protocol.json_schema import schema_grammar

#: Where dialects, and JSON's own escapes, differ.
LETTERS = [
    *map(chr, range(128)),
    *"\x85\xa0\xe9\u0661\u1680\u2003\u2028\u2029\u3000\ufeff\u4e2d\u0301",
    "\N{GRINNING FACE}",
]


def grammar(pattern):
    return schema_grammar(json.dumps({"type": "string", "pattern": pattern}))


@pytest.mark.parametrize(
    "pattern",
    [
        *(r'^[^"]$', r"^[^\\]$", r'^[^"\\]$', r'^[^"\n]$', r'^(?:a|[^"])$', r"^[\x00-\x21#]$", r"^[\u0000-\x50]$"),
        *(r"^\s$", r"^\S$", r"^\w$", r"^\W$", r"^\d$", r"^\D$", r"^.$", r"^[^\s]$", r"^[\s\S]$", r"^[^\w]$", r"^[\S]$"),
        *(r"^[.]$", r"^\.$", r"^[\]a]$", r"^[^\]]$", r"^[a\-]$", r"^[^a-]$", r"^[\[a]$", r"^\[$", r"^[a.$^]$", r"^\\$"),
        *(r"^[^\d\s]$", r"^[\w.-]$", r"^\u00e9$", r"^[\u00e0-\u00ff]$", r"^[^\x00-\x7f]$", r"^\x41$", r"^\/$"),
    ],
)
def test_one_letter_is_written_only_where_it_matches(pattern):
    found = grammar(pattern)
    written = [letter for letter in LETTERS if accepts(found, json.dumps(letter, ensure_ascii=False))]
    matching = [letter for letter in LETTERS if re.search(pattern, letter)]
    assert set(written) <= set(matching)
    ordinary = {letter for letter in matching if letter.isascii() and letter.isprintable()}
    assert ordinary <= set(written)


ATOMS = st.sampled_from(
    [
        "a",
        "b",
        r"\d",
        r"\w",
        r"\s",
        r"\.",
        ".",
        "[a-c]",
        "[^a]",
        r'[^"\\]',
        r"[\w-]",
        r"\W",
        r"\S",
        "(a|bc)",
        "(?:b?c)",
        "-",
    ]
)
REPEATS = st.sampled_from(["", "", "?", "*", "+", "{2}", "{0,2}", "{1,}"])
SEQUENCES = st.lists(st.tuples(ATOMS, REPEATS).map("".join), max_size=4).map("".join)
PATTERNS = st.builds(
    lambda begin, parts, end: begin + "|".join(parts) + end,
    st.sampled_from(["", "^"]),
    st.lists(SEQUENCES, min_size=1, max_size=3),
    st.sampled_from(["", "$"]),
)


@given(PATTERNS, st.lists(st.text('ab-c1 ".\\', max_size=6), min_size=5, max_size=15))
def test_texts_of_ordinary_letters_are_written_exactly_where_they_match(pattern, texts):
    try:
        found = grammar(pattern)
    except UsageError:
        assume(False)
    for text in texts:
        assert accepts(found, json.dumps(text)) == bool(re.search(pattern, text)), (pattern, text)
