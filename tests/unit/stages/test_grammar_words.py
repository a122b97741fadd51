"""What is wrong with a grammar, in words and at its place; and llama.cpp agrees about what is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support import grammar_fuzz
from support.effort import examples

from ainet.errors import UsageError
from ainet.stages.protocol.grammar import check_grammar


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('root ::= "a', "line 1, column 10", '`"` at the end of the text that begins here was expected'),
        ('root ::= "a"\nb ::= [a-z', "line 2, column 7", "`]` at the end of the class that begins here was expected"),
        ('root ::= ("a" | "b"', "line 1, column 20", "`)` for the `(` at line 1, column 10 was expected, but the end"),
        ('root ::= ("a"\nb ::= "c"', "line 2, column 1", "`)` for the `(` at line 1, column 10"),
        ('root ::= "a")', "line 1, column 13", "no `)`: no `(` is open"),
        ("root ::= * x", "line 1, column 10", "something before `*` that is repeated"),
        ('root ::= "" {2}', "line 1, column 13", "something before `{2}` that is repeated"),
        ('root ::= "a"{,3}', "line 1, column 13", "a number of repetitions"),
        ("root ::= item\n", "line 1, column 10", "a rule that exists: none is named `item`"),
        ('root ::= "a"\n  | "b"', "line 2, column 3", "a rule (`name ::= …`) was expected, but '| \"b\"'"),
        ('root ::= "a" b ::= "c"', "line 1, column 14", "the end of the line before the next rule"),
        ('# words\r\nroot ::= "\\q"', "line 2, column 11", "one of `\\n"),
        ('root ::= "\\x4"', "line 1, column 11", "one of `\\n"),
        ("root ::= my_rule", "line 1, column 12", "a rule's name of letters, digits and `-`"),
        ("hello", "line 1, column 1", "a rule (`name ::= …`)"),
        ('"a" | "b"', "line 1, column 1", "a rule (`name ::= …`)"),
        ('root ::= "\N{GRINNING FACE}" é', "line 1, column 14", "a text, a class, a rule's name"),
    ],
)
def test_what_was_expected_is_said_with_its_line_and_column(text, place, words):
    with pytest.raises(UsageError) as refused:
        check_grammar(text)
    assert f"not valid GBNF at {place}: " in refused.value.message
    assert words in refused.value.message


def test_a_grammar_without_a_beginning_is_named():
    with pytest.raises(UsageError, match="no rule named `root`"):
        check_grammar('start ::= "a"')


def test_what_would_be_repeated_until_memory_ends_is_refused():
    with pytest.raises(UsageError, match="the most is below the least"):
        check_grammar('root ::= "a"{3,2}')


@pytest.mark.parametrize(
    "text",
    [
        'root ::= "a" |\n  "b"',
        'root ::= (\n "a"\n | "b" # words\n)\n\n# more\nb ::= [^\\]\\-a-z]? root{0,2}',
        "root::=a\ra::=.*\r\n",
        "root ::= | ",
    ],
)
def test_valid_grammars_pass(text):
    check_grammar(text)


@pytest.mark.node
def test_llama_cpp_takes_what_passes_and_nothing_else_and_survives_it(smollm2_path):
    command = [sys.executable, grammar_fuzz.__file__, smollm2_path, "1", str(examples(3000))]
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["others"] == []
    assert found["read"] > examples(3000) / 10
    assert found["slowest"] < 10
