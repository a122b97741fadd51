"""Identifiers, and the words that they consist of."""

from __future__ import annotations

import re

_NAME = re.compile(r"[^\W\d]\w*")
#: A word within a name: of capitals (before one that begins a word), of letters as people write them, or of digits.
_PART = re.compile(r"[^\W\d_a-z]+(?![^\W\d_A-Z])|[^\W\d_][^\W\d_A-Z]*|\d+")


def parts(name: str) -> list[str]:
    """Return the words of an identifier: ``parseHTTPHeader`` and ``parse_http_header`` have three."""
    return _PART.findall(name)


def split_identifiers(text: str) -> str:
    """Return the words of the identifiers in `text` that have several, each identifier once."""
    found: dict[str, str] = {}
    for name in _NAME.findall(text):
        if name not in found:
            words = parts(name)
            # What is only separated by underscores, full text search takes apart itself.
            found[name] = " ".join(words) if len(words) > 1 and len(words) > len(name.strip("_").split("_")) else ""
    return " ".join(filter(None, found.values()))
