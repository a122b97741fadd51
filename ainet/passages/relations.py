"""What a piece of Python has to do with others: what it calls, imports, inherits, raises, catches, reads and writes.

Names are followed through the imports and the scopes of their file as far as that is certain. The targets are written
``os.path.join`` (by an import), ``.sibling.name`` (by a relative one), ``:Class.method`` (in the same file) and
``?.method`` (of something unknown).
"""

from __future__ import annotations

import ast
import builtins
from typing import TYPE_CHECKING

from ainet.storage.records import Relation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ainet.storage.records import RelationKind

#: Functions and methods whose first text is the name of data that they read, or write.
READERS = frozenset(("open", "read_text", "read_bytes", "load", "loadtxt", "imread"))
WRITERS = frozenset(("write_text", "write_bytes", "savetxt", "imwrite", "savefig"))
#: Calls of these say nothing.
_BUILTIN = frozenset(dir(builtins)) - {"open"}
_Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def relations_of(module: ast.Module) -> list[tuple[int, Relation]]:
    """Return the relations of a module, each with its line."""
    visitor = _Visitor(module)
    visitor.visit(module)
    return visitor.found


class _Visitor(ast.NodeVisitor):
    def __init__(self, module: ast.Module) -> None:
        self.found: list[tuple[int, Relation]] = []
        self._names: dict[str, str] = {}
        self._classes: list[ast.ClassDef] = []
        for node in ast.walk(module):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._names.update(_imported(node))
        self._names.update({node.name: f":{node.name}" for node in _definitions(module.body)})

    def _add(self, node: ast.AST, kind: RelationKind, target: str | None) -> None:
        if target:
            self.found.append((getattr(node, "lineno", 1), Relation(kind, target)))

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for target in _imported(node).values():
            self._add(node, "imports", target)

    visit_ImportFrom = visit_Import  # noqa: N815

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            self._add(node, "inherits", self._target(base))
        self._classes.append(node)
        self.generic_visit(node)
        self._classes.pop()

    def visit_Raise(self, node: ast.Raise) -> None:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        if raised is not None:
            self._add(node, "raises", self._target(raised, builtin=True))
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        for caught in node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]:
            if caught is not None:
                self._add(node, "catches", self._target(caught, builtin=True))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        target = self._target(node.func)
        self._add(node, "calls", target)
        last = (target or "").rpartition(".")[2].lstrip(":?")
        data = next((one.value for one in node.args[:1] if isinstance(one, ast.Constant)), None)
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Call):
            first = node.func.value.args[:1]  # Path("data.csv").read_text()
            data = next((one.value for one in first if isinstance(one, ast.Constant)), data)
        if isinstance(data, str) and "." in data and len(data) < 200:
            modes = [one.value for one in node.args[1:2] if isinstance(one, ast.Constant)]
            writes = last in WRITERS or last.startswith("to_") or (last == "open" and set("wax") & set(str(modes[:1])))
            if writes:
                self._add(node, "writes", data)
            elif last in READERS or last.startswith("read_"):
                self._add(node, "reads", data)
        self.generic_visit(node)

    def _target(self, node: ast.expr, *, builtin: bool = False) -> str | None:
        """Return what a name means here; None where nothing can be said."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return f"?.{parts[0]}" if parts else None
        name, rest = node.id, list(reversed(parts))
        if name in ("self", "cls") and rest and self._classes:
            own = self._classes[-1]
            if len(rest) == 1 and any(one.name == rest[0] for one in _definitions(own.body)):
                return ":" + ".".join([*(one.name for one in self._classes), rest[0]])
            return f"?.{rest[-1]}"
        if name in self._names:
            return ".".join([self._names[name], *rest])
        if rest:
            return f"?.{rest[-1]}"
        return (
            name if builtin or (name not in _BUILTIN and name == "open") else None if name in _BUILTIN else f"?.{name}"
        )


def _imported(node: ast.Import | ast.ImportFrom) -> dict[str, str]:
    """Return what the names that an import makes stand for."""
    if isinstance(node, ast.Import):
        return {
            one.asname or one.name.partition(".")[0]: one.name if one.asname else one.name.partition(".")[0]
            for one in node.names
        }
    module = "." * node.level + (node.module or "")
    dot = "" if not module or module.endswith(".") else "."
    return {one.asname or one.name: f"{module}{dot}{one.name}" for one in node.names if one.name != "*"}


def _definitions(body: Sequence[ast.stmt]) -> Iterator[_Scope]:
    for statement in body:
        if isinstance(statement, _Scope):
            yield statement
        elif isinstance(statement, ast.If | ast.Try):
            yield from _definitions(statement.body)
            yield from _definitions(statement.orelse)
