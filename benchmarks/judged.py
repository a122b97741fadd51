"""Questions with known answers, made from what others wrote: Python's manual and its standard library.

The answers follow from how the texts belong together, and no question has the name of what it asks for.
"""

from __future__ import annotations

import ast
import random
import re
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ainet.passages.parse import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ainet.storage.records import Passage

MANUAL = Path("/usr/share/doc/python3.11/html")
LIBRARY = Path(sysconfig.get_path("stdlib"))
#: Pages that list what others say.
_LISTS = re.compile(r"genindex|^search|^contents|whatsnew/changelog|_static|_images")
_SKIPPED = re.compile(r"(^|/)(test|tests|idlelib|lib2to3|site-packages|turtledemo|ensurepip|__pycache__)/")
_WORD = re.compile(r"[A-Za-z_]\w+")


@dataclass(frozen=True)
class Question:
    """A question, and where its answers stand: path, name and cell of passages."""

    text: str
    answers: frozenset[tuple[str, str]]


def manual() -> dict[str, list[Passage]]:
    """Return the passages of the manual, by page; answers of the FAQ have lost their titles."""
    pages = {}
    for path in sorted(MANUAL.rglob("*.html")):
        name = path.relative_to(MANUAL).as_posix()
        if not _LISTS.search(name):
            pages[name] = [_untitled(one) if name.startswith("faq/") else one for one in parse(name, path.read_bytes())]
    return pages


def _untitled(passage: Passage) -> Passage:
    above, _, title = passage.name.rpartition(" > ")
    if not title.endswith("?") or not passage.text.startswith(title):
        return passage
    return msgspec.structs.replace(passage, name=above, text=passage.text[len(title) :].strip() or "-")


def library() -> dict[str, bytes]:
    """Return the standard library's modules, by path."""
    return {
        path.relative_to(LIBRARY).as_posix(): path.read_bytes()
        for path in sorted(LIBRARY.rglob("*.py"))
        if not _SKIPPED.search(path.relative_to(LIBRARY).as_posix())
    }


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield qualified names in the standard library, and the first sentences of their docstrings."""
    for path, data in library().items():
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(data)
        yield from _docstrings(tree, module)


def _docstrings(tree: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            full = f"{name}.{node.name}"
            said = ast.get_docstring(node) or ""
            sentence = " ".join(re.split(r"\n\s*\n|(?<=[.!])\s", said, maxsplit=1)[0].split())
            if sentence:
                yield full, sentence
            if isinstance(node, ast.ClassDef):
                yield from _docstrings(node, full)


def described(pages: dict[str, list[Passage]], n: int, seed: int = 1) -> list[Question]:
    """First sentences of docstrings; the answer is the entry of the manual."""
    entries = {
        one.cell: (page, one.text)
        for page, passages in pages.items()
        for one in passages
        if one.kind == "definition" and page.startswith("library/")
    }
    found = []
    for name, sentence in docstrings():
        if name in entries:
            page, text = entries[name]
            asked = without(sentence, name)
            if len(asked.split()) >= 4 and " ".join(text.split()).lower().find(sentence.lower().rstrip(".")) < 0:
                found.append(Question(asked, frozenset({(page, name)})))
    return _some(found, n, seed)


def without(sentence: str, name: str) -> str:
    """Return a sentence without the identifier that it describes."""
    last = name.rpartition(".")[2]
    return " ".join(re.sub(rf"(?i)\b_*{re.escape(last.strip('_'))}_*\b(\([^)]*\))?", " ", sentence).split())


def frequently_asked(pages: dict[str, list[Passage]]) -> list[Question]:
    """Titles of the FAQ; the answer is the text below each."""
    found = []
    for path in sorted((MANUAL / "faq").glob("*.html")):
        page = f"faq/{path.name}"
        titled = {one.cell: one.name for one in parse(page, path.read_bytes())}
        for one in pages.get(page, ()):
            title = titled.get(one.cell, "").rpartition(" > ")[2]
            if title.endswith("?") and len(one.text) > 40:
                found.append(Question(title, frozenset({(page, one.cell)})))
    return list(dict.fromkeys(found))


def rare_terms(pages: dict[str, list[Passage]], n: int, seed: int = 1) -> list[Question]:
    """Terms that one or two passages have, with a common word beside each; the answers are these passages."""
    where: dict[str, set[tuple[str, str]]] = {}
    for page, passages in pages.items():
        for one in passages:
            for word in set(_WORD.findall(f"{one.text} {one.name}")):
                where.setdefault(word.lower(), set()).add((page, one.cell))
    found = [
        Question(word, frozenset(places))
        for word, places in sorted(where.items())
        if len(places) <= 2 and len(word) >= 5
    ]
    return _some(found, n, seed)


def _some(questions: list[Question], n: int, seed: int) -> list[Question]:
    return random.Random(seed).sample(questions, min(n, len(questions)))
