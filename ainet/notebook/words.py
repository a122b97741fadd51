"""The words of a magic's line, which remember where they stood: a question arrives as it was typed."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORD = re.compile(r"""(?<!\S)(--[\w-]+=)?(?:"([^"]*)"|'([^']*)')(?!\S)|(\S+)""")


class Word(str):
    """A word of a line, without the quotes around it; `begin` and `end` say where it stands, with them."""

    begin: int
    end: int

    @classmethod
    def of(cls, match: re.Match[str]) -> Word:
        """Return the word that `_WORD` found."""
        option, *quoted, bare = match.groups()
        word = cls(bare if bare is not None else "".join(part or "" for part in (option, *quoted)))
        word.begin, word.end = match.span()
        return word


def split(line: str) -> list[Word]:
    """Return the words of a magic's line; quotes hold words together, apostrophes within words are kept."""
    return [Word.of(match) for match in _WORD.finditer(line)]


def options_first(words: Sequence[Word], parser: argparse.ArgumentParser) -> list[str]:
    """Return the words of a question with its options in front, where nothing that is asked looks like one of them.

    Options may stand anywhere. What only looks like one (``-la``) and ``--help`` are text, once text has begun, and all
    is behind ``--``.
    """
    flags: dict[str, Any] = parser._option_string_actions
    options: list[str] = []
    text: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, _ = word.partition("=")
        is_bare = word.end - word.begin == len(word)
        if word == "--" and is_bare:
            text += rest
        elif flag in flags and (is_bare or equals) and not (text and isinstance(flags[flag], argparse._HelpAction)):
            options.append(str(word))
            if not equals and flags[flag].nargs is None:
                options += [str(value) for value in [next(rest, None)] if value is not None]
        elif word.startswith("-") and is_bare and not text and not _is_number(word):
            options.append(str(word))  # the parser says that it knows none of this name
        else:
            text.append(word)
    return [*options, "--", *text] if text else options


def as_typed(words: Sequence[str], line: str) -> str:
    """Return the text that these words of a line make, with what is between them and the quotes around them."""
    typed, end = "", None
    for word in words:
        assert isinstance(word, Word)  # noqa: S101
        between = "" if end is None else line[end : word.begin]
        typed += (between if not between.strip() else " ") + line[word.begin : word.end]
        end = word.end
    return typed


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-\d+|-\d*\.\d+", word) is not None
