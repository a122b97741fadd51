"""From the bytes of a file to its passages, by the kind of the file."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from ainet.errors import UsageError
from ainet.passages.code import code_passages
from ainet.passages.grammars import language
from ainet.passages.html import html_passages
from ainet.passages.lines import passages_of
from ainet.passages.markdown import markdown_passages
from ainet.passages.notebook import notebook_passages
from ainet.passages.pdf import BEGIN, pdf_passages
from ainet.passages.python import python_passages
from ainet.passages.secrets import without_secrets
from ainet.passages.table import table_passages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ainet.storage.records import Passage

#: Most passages of one source.
MOST_PASSAGES = 20_000
#: Bytes at the beginning in which a zero byte means that the file is no text.
BINARY = 8192
PARSERS: dict[str, Callable[[str], Iterator[Passage]]] = {
    ".py": python_passages,
    ".pyi": python_passages,
    ".md": markdown_passages,
    ".markdown": markdown_passages,
    ".ipynb": notebook_passages,
    ".html": html_passages,
    ".htm": html_passages,
    ".csv": table_passages,
    ".tsv": table_passages,
}


def parse(path: str, data: bytes) -> list[Passage]:
    """Return the passages of a file, without secrets.

    Raises
    ------
    UsageError
        It cannot be read: the message says why, and goes on after the file's name.
    """
    if data.startswith(BEGIN):
        return _kept(list(pdf_passages(data)))
    text = _decode(data).replace("\r\n", "\n").replace("\r", "\n")
    suffix = PurePath(path).suffix.lower()
    parser = PARSERS.get(suffix)
    try:
        if parser is None and (grammar := language(suffix)) is not None:
            found = list(code_passages(text, grammar))
        else:
            found = list(parser(text)) if parser is not None else _plain(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # Python that does not compile is read as text
        found = _plain(text)
    return _kept(found)


def _kept(found: list[Passage]) -> list[Passage]:
    if len(found) > MOST_PASSAGES:
        raise UsageError(f"has {len(found)} passages; at most {MOST_PASSAGES} of one file are kept")
    return list(without_secrets(found))


def _plain(text: str) -> list[Passage]:
    lines = text.split("\n")
    return list(passages_of(lines, 1, len(lines), kind="text"))


def _decode(data: bytes) -> str:
    """Return a file's text, in UTF-8, UTF-16 with its mark, or else Latin-1."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError as exc:
                raise UsageError(f"is no text in {encoding} ({exc.reason})") from exc
    if b"\0" in data[:BINARY]:
        raise UsageError("is no text")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
