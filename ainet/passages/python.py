"""Python: functions, classes without their methods, and what stands between them."""

from __future__ import annotations

import ast
import warnings
from typing import TYPE_CHECKING

import msgspec

from ainet.passages.lines import passages_of
from ainet.passages.relations import relations_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ainet.storage.records import Passage

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
#: Statements that may hold definitions which are a module's or a class's nevertheless.
_Block = ast.If | ast.Try | ast.With


def python_passages(text: str, *, cell: str = "") -> Iterator[Passage]:
    """Yield the passages of a module, or of a cell; raises `SyntaxError` and `ValueError` as `ast.parse` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the text, such as invalid escapes
        module = ast.parse(text)
    lines = text.split("\n")
    found = list(_scope(lines, module.body, 1, len(lines), name="", kind="module", cell=cell))
    relations = sorted(relations_of(module), key=lambda one: one[0])
    for passage in sorted(found, key=lambda one: one.first_line):
        own = {relation: None for line, relation in relations if passage.first_line <= line <= passage.last_line}
        yield msgspec.structs.replace(passage, relations=tuple(own)) if own else passage


def _scope(
    lines: Sequence[str], body: Sequence[ast.stmt], first: int, last: int, *, name: str, kind: str, cell: str
) -> Iterator[Passage]:
    """Yield the passages of the lines from `first` to `last`, in which the statements stand."""
    rest = first
    for definition in _definitions(body):
        begin = _comments_before(lines, _begin(definition), rest)
        yield from passages_of(lines, rest, begin - 1, kind=kind, name=name, cell=cell)
        end = definition.end_lineno or definition.lineno
        full = f"{name}.{definition.name}" if name else definition.name
        if isinstance(definition, ast.ClassDef):
            yield from _scope(lines, definition.body, begin, end, name=full, kind="class", cell=cell)
        else:
            yield from passages_of(lines, begin, end, kind="function", name=full, cell=cell)
        rest = end + 1
    yield from passages_of(lines, rest, last, kind=kind, name=name, cell=cell)


def _definitions(body: Sequence[ast.stmt]) -> Iterator[_Definition]:
    """Yield functions and classes in their order, also those under a condition."""
    for statement in body:
        if isinstance(statement, _Definition):
            yield statement
        elif isinstance(statement, _Block):
            yield from _definitions(statement.body)
            if isinstance(statement, ast.Try):
                for handler in statement.handlers:
                    yield from _definitions(handler.body)
            if not isinstance(statement, ast.With):
                yield from _definitions(statement.orelse)
            if isinstance(statement, ast.Try):
                yield from _definitions(statement.finalbody)


def _begin(definition: _Definition) -> int:
    """Return the line of the first decorator, or of the definition."""
    return min([definition.lineno, *(one.lineno for one in definition.decorator_list)])


def _comments_before(lines: Sequence[str], begin: int, least: int) -> int:
    """Return the first of the comment lines that stand directly before a definition."""
    while begin > least and lines[begin - 2].lstrip().startswith("#"):
        begin -= 1
    return begin
