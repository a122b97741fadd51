"""Limits of what a request to this server may say."""

from __future__ import annotations

from ainet.errors import UsageError

MAX_TEXT = 4096
MAX_KEY = 65536
MAX_COUNT = 1024


def check_text(option: str, text: str | None, most: int = MAX_TEXT) -> None:
    """Raise `UsageError` for a text that is empty or has more than `most` characters."""
    if text is not None and not 1 <= len(text) <= most:
        raise UsageError(f"{option} has {len(text)} characters; it must have 1 to {most}.")


def check_count(option: str, number: int | None) -> None:
    """Raise `UsageError` for a number that is not in the range of 1 to `MAX_COUNT`."""
    if number is not None and not 1 <= number <= MAX_COUNT:
        raise UsageError(f"{option} is {number}; it must lie between 1 and {MAX_COUNT}.")
