r"""Regular expressions of JSON schemas in the words of the matcher, with what all dialects agree on.

A `pattern` is one of ECMAScript's; validators read it as Python's, and llguidance as Rust's. These differ in what
``\s``, ``\S``, ``\W``, ``\D`` and ``.`` stand for: each is written out as the characters for which all three hold. A
class that holds all control characters makes llguidance (1.9) forget that it excludes quotes and backslashes, so that
no class holds U+0000.
"""

from __future__ import annotations

import re

_SPACE = r"\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
_NO_SPACE = rf"[^\x00{_SPACE}\x1c-\x1f\x{{85}}\x{{feff}}]"
_INSTEAD = {
    r"\s": f"[{_SPACE}]",
    r"\S": _NO_SPACE,
    r"\D": r"[^\x000-9\p{Nd}]",
    r"\W": r"[^\x000-9A-Za-z_\p{L}\p{M}\p{N}]",
    ".": r"[^\x00\n\r\x{2028}\x{2029}]",
}
#: The same within a class, and what a class that excludes it excludes as well.
_WITHIN = {r"\s": _SPACE, r"\d": "0-9", r"\w": "0-9A-Za-z_"}
_EXCLUDED = {r"\s": r"\x1c-\x1f\x{85}\x{feff}", r"\d": r"\p{Nd}", r"\w": r"\p{L}\p{M}\p{N}"}
_PIECE = re.compile(r"\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL)


def agreed(pattern: str) -> str:
    """Return a pattern that matches nothing but what `pattern` does in every dialect."""
    written = ""
    begun = 0  # where the content of the class that is being read begins; 0: there is none
    is_negated = False
    for match in _PIECE.finditer(pattern):
        piece = match[0]
        if not begun:
            if piece == "[":
                is_negated = pattern.startswith("^", match.end())
                begun = match.end() + is_negated
                written += r"[^\x00" if is_negated else "["
            else:
                written += _INSTEAD.get(piece, piece)
        elif match.start() < begun:
            pass  # the sign of negation, which is written
        elif piece == "]" and match.start() > begun:
            written += "]"
            begun = 0
        elif piece == "]":
            written += r"\]"
        elif piece in _WITHIN:
            written += _WITHIN[piece] + (_EXCLUDED[piece] if is_negated else "")
        elif piece in (r"\x00", r"\u0000") and not is_negated:
            written += r"\x01"
        else:
            written += piece if piece == "." else _INSTEAD.get(piece, piece)
    return written
