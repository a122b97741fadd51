"""The last failure in a kernel, as a question."""

from __future__ import annotations

import ast
import linecache
import sys
import traceback
from typing import TYPE_CHECKING

from ainet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from IPython.core.interactiveshell import InteractiveShell

#: Lines of a cell that go along: those around the one that failed.
MOST_LINES = 40
#: Variables that are described, and columns that are named.
MOST_VARIABLES, MOST_COLUMNS = 10, 20


def failure_words(shell: InteractiveShell) -> str:
    """Return a question about the exception that the last failing cell raised: its code, its line, its variables.

    Raises
    ------
    UsageError
        No cell has failed.
    """
    error = getattr(sys, "last_value", None)
    if not isinstance(error, BaseException) or error.__traceback__ is None:
        raise UsageError("No cell of this notebook has failed.")
    frames = traceback.extract_tb(error.__traceback__)
    cell = next((one for one in reversed(frames) if _is_cell(shell, one.filename)), frames[-1])
    lines = [line.rstrip("\n") for line in linecache.getlines(cell.filename)]
    number = cell.lineno or 1
    first = max(0, min(number - MOST_LINES // 2, len(lines) - MOST_LINES))
    code = "\n".join(lines[first : first + MOST_LINES])
    failed = lines[number - 1].strip() if number <= len(lines) else ""
    said = "".join(traceback.format_exception_only(error)).strip()
    parts = [f"This code:\n```python\n{code}\n```", f"fails at `{failed}` with:\n{said}"]
    known = list(described(names_in(failed), shell.user_ns))
    parts += ["Its variables: " + "; ".join(known) + "."] if known else []
    return "\n\n".join([*parts, "What is wrong, and how is it fixed?"])


def _is_cell(shell: InteractiveShell, filename: str) -> bool:
    names: Mapping[str, object] = getattr(shell.compile, "_filename_map", {})
    return filename in names or filename.startswith("<ipython-input")


def names_in(code: str) -> set[str]:
    """Return the names in some code; none where it is no Python."""
    try:
        return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    except SyntaxError:
        return set()


def described(names: Collection[str], variables: Mapping[str, object]) -> Iterator[str]:
    """Yield what these variables are: their types, shapes and columns, not what they hold."""
    for name in sorted(set(names) & set(variables))[:MOST_VARIABLES]:
        value = variables[name]
        if callable(value) or type(value).__name__ == "module":
            continue
        words = f"{name} is of type {type(value).__name__}"
        try:
            shape = getattr(value, "shape", None)
            columns = getattr(value, "columns", None)
            if isinstance(shape, tuple):
                words += f", shape {shape}"
            elif isinstance(value, list | tuple | dict | set | str | bytes):
                words += f", length {len(value)}"
            if columns is not None:
                words += f", columns {', '.join(map(str, list(columns)[:MOST_COLUMNS]))}"
        except Exception:  # noqa: S112 - objects of others may raise anything
            continue
        yield words
