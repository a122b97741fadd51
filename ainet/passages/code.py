"""Programs in other languages than Python: functions, classes without their methods, and what they call."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ainet.passages.lines import passages_of
from ainet.storage.records import Relation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tree_sitter import Language, Node

    from ainet.storage.records import Passage

#: Kinds of nodes that define functions, and things that have members.
FUNCTIONS = frozenset(
    """
    function_declaration generator_function_declaration function_definition function_item method_definition
    method_declaration method singleton_method constructor_declaration local_function_statement macro_definition
    short_function_definition
    """.split()  # noqa: SIM905
)
CLASSES = frozenset(
    """
    class_declaration abstract_class_declaration class_definition class class_specifier struct_specifier
    struct_declaration struct_definition struct_item enum_item enum_declaration enum_specifier interface_declaration
    trait_item trait_declaration trait_definition impl_item object_definition record_declaration namespace_definition
    namespace_declaration module module_definition mod_item internal_module type_spec union_item
    """.split()  # noqa: SIM905
)
#: Values that make a variable the name of a function.
LAMBDAS = frozenset(("arrow_function", "function_expression", "function", "generator_function"))
#: Kinds of calls, and the fields with what is called.
CALLS = {
    "call_expression": "function",
    "invocation_expression": "function",
    "function_call_expression": "function",
    "method_invocation": "name",
    "member_call_expression": "name",
    "scoped_call_expression": "name",
    "call": "method",
    "macro_invocation": "macro",
    "new_expression": "constructor",
    "object_creation_expression": "type",
}
#: Parts of a class that name those which it inherits from.
PARENTS = frozenset(
    """
    class_heritage superclass super_interfaces extends_interfaces base_class_clause base_list extends_clause
    class_interface_clause base_clause
    """.split()  # noqa: SIM905
)
#: Lines directly before a definition that belong to it: comments, attributes and annotations.
_BEFORE = re.compile(r"\s*(?://|/\*|\*|--|@|#\[|#\s|#$)")
_WORD = re.compile(r"\b(?!end\b)\w")
#: How deep definitions may lie in each other.
DEEPEST = 40


class _Definition(NamedTuple):
    node: Node
    name: str
    is_class: bool


def code_passages(text: str, grammar: Language) -> Iterator[Passage]:
    """Yield the passages of a program; what has errors is parsed as far as it goes."""
    import tree_sitter

    root = tree_sitter.Parser(grammar).parse(text.encode(errors="replace")).root_node
    lines = text.split("\n")
    found = sorted(_scope(lines, root, (1, len(lines)), "", 0), key=lambda one: one.first_line)
    relations = list(_relations(root, {one.name for one in found}))
    for passage in found:
        if _WORD.search(passage.text) is None:
            continue  # what ends a class
        own = {relation: None for line, relation in relations if passage.first_line <= line <= passage.last_line}
        yield msgspec.structs.replace(passage, relations=tuple(own)) if own else passage


def _scope(lines: Sequence[str], node: Node, range_: tuple[int, int], name: str, depth: int) -> Iterator[Passage]:
    """Yield the passages of a range of lines, in which the definitions of a node stand; `name` is that of a class."""
    rest, last = range_
    kind = "class" if name else "module"
    for one in _definitions(node, depth) if depth < DEEPEST else ():
        begin, end = one.node.start_point[0] + 1, one.node.end_point[0] + 1
        if begin < rest:
            continue  # on the line of the one before
        while begin > rest and _BEFORE.match(lines[begin - 2]):
            begin -= 1
        yield from passages_of(lines, rest, begin - 1, kind=kind, name=name)
        full = f"{name}.{one.name}" if name else one.name
        if one.is_class:
            yield from _scope(lines, one.node, (begin, end), full, depth + 1)
        else:
            yield from passages_of(lines, begin, end, kind="function", name=full)
        rest = end + 1
    yield from passages_of(lines, rest, last, kind=kind, name=name)


def _definitions(node: Node, depth: int) -> Iterator[_Definition]:
    """Yield the definitions in a node, but not those in them."""
    for child in node.named_children:
        found = _definition(child)
        if found is not None:
            yield found
        elif depth < DEEPEST and child.type not in CALLS and "comment" not in child.type:
            yield from _definitions(child, depth + 1)


def _definition(node: Node) -> _Definition | None:
    if node.type in FUNCTIONS:
        name = _name(node)
        receiver = node.child_by_field_name("receiver")
        of = _first(receiver, ("type_identifier",)) if receiver is not None else ""
        return _Definition(node, f"{of}.{name}" if of else name, is_class=False) if name else None
    if node.type in CLASSES and (node.child_by_field_name("body") is not None or node.named_child_count > 1):
        name = _name(node)
        return _Definition(node, name, is_class=True) if name else None
    if node.type == "assignment" and node.named_children and node.named_children[0].type == "call_expression":
        return _Definition(node, _first(node, ("identifier",)), is_class=False)  # as Julia writes short functions
    if node.type in ("lexical_declaration", "variable_declaration"):
        for one in node.named_children:
            value = one.child_by_field_name("value")
            if value is not None and value.type in LAMBDAS:
                return _Definition(node, _name(one), is_class=False)
    return None


def _name(node: Node) -> str:
    """Return what a definition is called."""
    for field in ("name", "declarator", "type", "signature"):
        child = node.child_by_field_name(field)
        if child is not None:
            return _last(child) if field == "declarator" else _text(child).partition("<")[0].partition("(")[0].strip()
    return _first(node, ("identifier", "type_identifier", "constant"))


def _last(node: Node) -> str:
    """Return the name in a declarator of C, which stands before its parameters."""
    while (inner := node.child_by_field_name("declarator")) is not None:
        node = inner
    return _text(node).rpartition("::")[2].strip("*& ")


def _first(node: Node, kinds: Sequence[str]) -> str:
    for child in node.named_children:
        found = _text(child) if child.type in kinds else _first(child, kinds)
        if found:
            return found
    return ""


def _relations(root: Node, defined: set[str]) -> Iterator[tuple[int, Relation]]:
    """Yield what is called and inherited from, with the line."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        waiting += node.named_children
        line = node.start_point[0] + 1
        if node.type in PARENTS:
            for name in {_text(one) for one in _leaves(node) if one.type.endswith(("identifier", "constant", "name"))}:
                yield line, Relation("inherits", f":{name}" if name in defined else name)
        field = CALLS.get(node.type)
        called = node.child_by_field_name(field) if field is not None else None
        if called is not None:
            name = re.sub(r"<.*", "", _text(called), flags=re.DOTALL)
            is_plain = re.fullmatch(r"[\w$?!]+", name) is not None and not _is_method(node)
            last = re.split(r"\.|::|->|\?\.", name)[-1].strip()
            if re.fullmatch(r"[\w$?!]+", last):
                own = f":{last}" if last in defined else last
                yield line, Relation("calls", own if is_plain else f"?.{last}")


def _is_method(node: Node) -> bool:
    """Whether something is called on an object."""
    return any(node.child_by_field_name(field) is not None for field in ("object", "receiver", "scope"))


def _leaves(node: Node) -> Iterator[Node]:
    if not node.named_child_count:
        yield node
    for child in node.named_children:
        yield from _leaves(child)


def _text(node: Node) -> str:
    return (node.text or b"").decode(errors="replace")
