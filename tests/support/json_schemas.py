"""What a schema's grammar lets an answer say, and what the public test suite of JSON Schema says of it."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llguidance import LLMatcher, LLTokenizer

from ainet.errors import UsageError
from ainet.stages.protocol.json_schema import checked_schema, schema_grammar

if TYPE_CHECKING:
    from collections.abc import Iterator

#: `make` puts it there: the JSON-Schema-Test-Suite as the source package of `jsonschema` carries it.
SUITE = Path(sys.prefix) / "share" / "json-schema-test-suite" / "tests" / "draft2020-12"
_BYTES = LLTokenizer("byte")


def accepts(grammar: str, text: str) -> bool:
    """Tell whether an answer may be this text."""
    matcher = LLMatcher(_BYTES, grammar, log_level=0)
    return bool(matcher.consume_tokens(list(text.encode()))) and bool(matcher.is_accepting())


def may_say(schema: Any, text: str) -> bool:
    return accepts(schema_grammar(checked_schema(schema)[0]), text)


def spellings(value: Any) -> Iterator[Any]:
    """Yield a value with its keys in other orders, and whole numbers as integers: the same in JSON."""
    if isinstance(value, dict):
        for order in itertools.islice(itertools.permutations(value), 120):
            for inner in itertools.islice(itertools.product(*(list(spellings(value[key])) for key in order)), 50):
                yield dict(zip(order, inner, strict=True))
    elif isinstance(value, list):
        yield from map(list, itertools.islice(itertools.product(*(list(spellings(one)) for one in value)), 50))
    else:
        yield int(value) if isinstance(value, float) and value.is_integer() else value


class Verdict(NamedTuple):
    """What became of one test of the suite: `supported`, `narrower`, `refused` or `wrong`."""

    file: str
    test: str
    kind: str


def verdicts(grammar_of: Any = schema_grammar) -> Iterator[Verdict]:
    """Yield what becomes of each required test of draft 2020-12.

    `narrower`: a valid value is never written (keys that the schema does not name, texts that are not of their format).
    `wrong`: an invalid value can be written, or nothing valid of a schema that was taken.
    """
    for file in sorted(SUITE.glob("*.json")):
        for case in json.loads(file.read_text()):
            try:
                grammar = grammar_of(json.dumps(case["schema"]))
            except (UsageError, ValueError):
                for test in case["tests"]:
                    yield Verdict(file.stem, f"{case['description']}: {test['description']}", "refused")
                continue
            for test in case["tests"]:
                written = any(accepts(grammar, json.dumps(one, ensure_ascii=False)) for one in spellings(test["data"]))
                kind = "supported" if written == test["valid"] else "narrower" if test["valid"] else "wrong"
                yield Verdict(file.stem, f"{case['description']}: {test['description']}", kind)


def table(found: list[Verdict]) -> str:
    """Return the verdicts by keyword, for people."""
    kinds = ("supported", "narrower", "refused", "wrong")
    counts: dict[str, Counter[str]] = {}
    for verdict in found:
        counts.setdefault(verdict.file, Counter())[verdict.kind] += 1
    counts["all"] = sum(counts.values(), Counter())
    rows = [f"{name:24}" + "".join(f"{count[kind] or '–':>10}" for kind in kinds) for name, count in counts.items()]
    return "\n".join([f"{'keyword':24}" + "".join(f"{kind:>10}" for kind in kinds), *rows])
