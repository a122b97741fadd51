"""What a shared variable can hold, and the types in which it comes back.

A document is shared with programs in other languages, whose numbers are one kind, as in JavaScript: what has no
fraction comes back as an int. Whole numbers of more than 53 bits, infinities and texts that are no Unicode would arrive
elsewhere as something else, or not at all: they are refused, before anything is changed.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from ainet.errors import UsageError

MOST_INT = 2**53 - 1  # JavaScript's Number.MAX_SAFE_INTEGER
MAX_DEPTH = 100
MAX_VALUES = 1_000_000


def plain(value: Any, where: str = "The value") -> Any:
    """Return a value as plain Python that every program can read.

    Parameters
    ----------
    value
        Numbers, texts, None, and lists and dicts of them; dicts have texts as keys.
    where
        Begins the message of an error.

    Raises
    ------
    UsageError
        For what cannot be shared.
    """
    return _Copy(where).of(value, ())


def typed(value: Any) -> Any:
    """Return what a document holds in Python's types: numbers without a fraction are ints."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= MOST_INT:
        return int(value)
    if isinstance(value, dict):
        return {key: typed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [typed(one) for one in value]
    return value


def checked_text(value: object, where: str = "The text") -> str:
    """Return a text that every program can read; raises `UsageError` for anything else."""
    if not isinstance(value, str):
        raise UsageError(f"{where} must be a text, not a {type(value).__name__}.")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise UsageError(f"{where} cannot be shared: character {exc.start} is half of a surrogate pair.") from exc
    return str(value)


class _Copy:
    """One copy: counts what it has seen."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._count = 0

    def of(self, value: Any, around: tuple[int, ...]) -> Any:
        self._count += 1
        if self._count > MAX_VALUES:
            raise UsageError(f"{self._where} cannot be shared: it holds more than {MAX_VALUES:,} values.")
        if hasattr(value, "item") and getattr(value, "shape", None) == ():  # one of NumPy's
            value = value.item()
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return checked_text(value, self._where)
        if isinstance(value, numbers.Integral):
            return self._whole(int(value))
        if isinstance(value, numbers.Real):
            return self._fraction(float(value))
        if hasattr(value, "to_py"):  # another shared variable
            value = value.to_py()
        if id(value) in around:
            raise UsageError(f"{self._where} cannot be shared: it holds itself.")
        if len(around) >= MAX_DEPTH:
            raise UsageError(f"{self._where} cannot be shared: more than {MAX_DEPTH} lists and dicts hold each other.")
        around = (*around, id(value))
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {checked_text(key, "A key"): self.of(one, around) for key, one in value.items()}
        if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray | Mapping):
            return [self.of(one, around) for one in value]
        raise UsageError(
            f"A {type(value).__name__} cannot be shared: use numbers, texts, lists, and dicts with texts as keys."
        )

    def _whole(self, value: int) -> int:
        if abs(value) > MOST_INT:
            raise UsageError(
                f"{self._where} cannot be shared: a whole number of more than 53 bits would change elsewhere. "
                "Share it as a text."
            )
        return value

    def _fraction(self, value: float) -> float:
        if not math.isfinite(value):
            raise UsageError(f"{self._where} cannot be shared: {value} is no number that JSON has.")
        return value
