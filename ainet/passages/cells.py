"""Which variables a cell of a notebook needs, and which it makes."""

from __future__ import annotations

import ast
import symtable
from functools import cache
from typing import TYPE_CHECKING, Any

from ainet.passages.relations import relations_of
from ainet.storage.records import Relation

if TYPE_CHECKING:
    from collections.abc import Iterator


def cell_relations(source: str) -> list[Relation]:
    """Return what a cell of code uses and assigns, and what it calls; nothing for one that is no Python."""
    try:
        code = _transformer().transform_cell(source)
        module = ast.parse(code)
        table = symtable.symtable(code, "cell", "exec")
    except (SyntaxError, ValueError, RecursionError):
        return []
    assigned = {one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported()}
    defined = {one.get_name() for one in table.get_symbols() if one.is_namespace()}
    used = _used_first(module, set())
    used |= {name for name in _globals_within(table) if name not in assigned | defined}
    changed = {name for node in ast.walk(module) if (name := _changed(node))}
    kept = _known()
    found = [relation for _, relation in relations_of(module)]
    found += [Relation("uses", f":{name}") for name in sorted(used | (changed - assigned)) if name not in kept]
    found += [Relation("assigns", f":{name}") for name in sorted(assigned | defined | changed) if name not in kept]
    return found


def _used_first(module: ast.Module, known: set[str]) -> set[str]:
    """Return names that statements read before any of them has assigned these."""
    used: set[str] = set()
    for statement in module.body:
        inner: set[ast.AST] = set()
        for node in ast.walk(statement):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inner.update(one for part in _body(node) for one in ast.walk(part))
            elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
                own = {one.id for part in node.generators for one in ast.walk(part.target) if isinstance(one, ast.Name)}
                inner.update(one for one in ast.walk(node) if isinstance(one, ast.Name) and one.id in own)
        stored: set[str] = set()
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and node not in inner:
                if isinstance(node.ctx, ast.Load | ast.Del):
                    used |= {node.id} - known
                else:
                    stored.add(node.id)
            elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                used |= {node.target.id} - known
            elif isinstance(node, ast.ExceptHandler) and node.name:
                stored.add(node.name)
                used.discard(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                stored |= {(one.asname or one.name).partition(".")[0] for one in node.names}
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                stored.add(node.name)
        # A loop assigns its variable before its body reads it.
        if isinstance(statement, ast.For | ast.With | ast.Try | ast.If | ast.While):
            added = {
                one.target.id
                for one in ast.walk(statement)
                if isinstance(one, ast.AugAssign) and isinstance(one.target, ast.Name)
            }
            used -= stored - known - _read_before(statement) - added
        known |= stored
    return used


def _body(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[Any]:
    return node.body if isinstance(node.body, list) else [node.body]


def _read_before(statement: ast.stmt) -> set[str]:
    """Return names that the head of a compound statement reads."""
    heads: list[ast.AST] = []
    if isinstance(statement, ast.For):
        heads = [statement.iter]
    elif isinstance(statement, ast.If | ast.While):
        heads = [statement.test]
    elif isinstance(statement, ast.With):
        heads = [item.context_expr for item in statement.items]
    return {one.id for head in heads for one in ast.walk(head) if isinstance(one, ast.Name)}


def _globals_within(table: symtable.SymbolTable) -> Iterator[str]:
    for child in table.get_children():
        for one in child.get_symbols():
            if one.is_global() and one.is_referenced():
                yield one.get_name()
        yield from _globals_within(child)


def _changed(node: ast.AST) -> str | None:
    """Return the variable of which a statement changes a part, such as a column."""
    if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
        inner: ast.expr = node
        while isinstance(inner, ast.Subscript | ast.Attribute):
            inner = inner.value
        return inner.id if isinstance(inner, ast.Name) else None
    return None


@cache
def _known() -> frozenset[str]:
    """Return names that every cell has."""
    import builtins

    return frozenset((*dir(builtins), "get_ipython", "display", "_", "__"))


@cache
def _transformer() -> Any:
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager()
