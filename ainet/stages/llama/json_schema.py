"""JSON schemas as grammars: llama-cpp-python's converter with limits on what it is given and on what it makes."""

from __future__ import annotations

import json
import re
from typing import Any

from llama_cpp.llama_grammar import SchemaConverter

from ainet.errors import AinetError, UsageError
from ainet.stages.protocol.grammar import MAX_GRAMMAR, MAX_REPEATS, check_grammar

MAX_DEPTH = 50  # schemas inside schemas
MAX_SCHEMAS = 5000  # also those that references repeat


class Converter(SchemaConverter):  # type: ignore[misc] # its package has no types
    """Writes the rules of one schema."""

    def __init__(self) -> None:
        super().__init__(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        self._depth = 0
        self._schemas = 0
        self._size = 0

    def visit(self, schema: Any, name: str) -> str:
        """Add the rules of `schema`; return the name of the first."""
        self._schemas += 1
        if self._depth >= MAX_DEPTH or self._schemas > MAX_SCHEMAS:
            raise UsageError(
                f"The JSON schema is too large; at most {MAX_DEPTH} schemas inside each other, {MAX_SCHEMAS} in all."
            )
        _check_repeats(schema)
        self._depth += 1
        try:
            return str(super().visit(schema, name))
        finally:
            self._depth -= 1

    def _add_rule(self, name: str, rule: str) -> str:
        self._size += len(name) + len(rule)
        if self._size > 4 * MAX_GRAMMAR:  # rules that come twice are counted twice; the exact limit is checked later
            raise UsageError(
                f"The grammar of the JSON schema has more than {MAX_GRAMMAR} bytes. Make the schema simpler."
            )
        return str(super()._add_rule(name, rule))

    def _format_literal(self, literal: str) -> str:
        # The converter leaves backslashes alone, so that a quotation mark in an enum would end the literal.
        text = json.dumps(json.loads(literal), ensure_ascii=False)
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def grammar_of_schema(schema: str) -> str:
    """Return the GBNF grammar of a JSON schema (as JSON).

    Raises
    ------
    UsageError
        If it is no schema, uses what cannot be turned into a grammar, or is too large.
    """
    try:
        converter = Converter()
        converter.visit(converter.resolve_refs(json.loads(schema), "stdin"), "")
        text = str(converter.format_grammar())
    except AinetError:
        raise
    except Exception as exc:  # the converter meets unexpected schemas with any error
        raise UsageError(f"This JSON schema cannot be turned into a grammar: {exc or type(exc).__name__}") from exc
    check_grammar(text, "The grammar of the JSON schema")
    return text


def _check_repeats(schema: dict[str, Any]) -> None:
    counts = [(key, schema.get(key)) for key in ("minItems", "maxItems", "minLength", "maxLength")]
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        braces = " ".join(re.findall(r"{[^}]*", pattern))
        counts += [("pattern", int(number[:10])) for number in re.findall(r"\d+", braces)]
    for key, count in counts:
        if isinstance(count, int | float) and count > MAX_REPEATS:
            raise UsageError(
                f"{key} of the JSON schema asks for {count} repetitions; at most {MAX_REPEATS} are allowed."
            )
