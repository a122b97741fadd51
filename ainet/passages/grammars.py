"""Which programming languages can be parsed here: those whose tree-sitter grammars are installed (``ainet[code]``)."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Language

#: By the end of a file's name: the module of the grammar, and the function in it.
GRAMMARS = {
    suffix: grammar
    for suffixes, *grammar in (
        (".js .mjs .cjs .jsx", "tree_sitter_javascript", "language"),
        (".ts .mts .cts", "tree_sitter_typescript", "language_typescript"),
        (".tsx", "tree_sitter_typescript", "language_tsx"),
        (".java", "tree_sitter_java", "language"),
        (".go", "tree_sitter_go", "language"),
        (".rs", "tree_sitter_rust", "language"),
        (".c .h", "tree_sitter_c", "language"),
        (".cc .cpp .cxx .hh .hpp .cu", "tree_sitter_cpp", "language"),
        (".rb", "tree_sitter_ruby", "language"),
        (".cs", "tree_sitter_c_sharp", "language"),
        (".sh .bash", "tree_sitter_bash", "language"),
        (".jl", "tree_sitter_julia", "language"),
        (".php", "tree_sitter_php", "language_php"),
        (".scala", "tree_sitter_scala", "language"),
    )
    for suffix in suffixes.split()
}


@cache
def has_grammar(suffix: str) -> bool:
    """Whether files whose names end so can be parsed; nothing is imported."""
    module, *_ = GRAMMARS.get(suffix, ("",))
    return bool(module) and all(importlib.util.find_spec(one) is not None for one in ("tree_sitter", module))


@cache
def language(suffix: str) -> Language | None:
    """Return the grammar for files whose names end so; None where there is none."""
    if not has_grammar(suffix):
        return None
    import tree_sitter

    module, function = GRAMMARS[suffix]
    return tree_sitter.Language(getattr(importlib.import_module(module), function)())


def parser_of(path: str, parser: str) -> str:
    """Return what names the parser of a file: another one where its grammar is installed."""
    return f"{parser} tree" if has_grammar(PurePath(path).suffix.lower()) else parser
