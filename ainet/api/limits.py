"""Limits of what a request may say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from ainet.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """Least and most: of characters for a text and for each text of a list, otherwise of the number itself."""

    least: int
    most: int


Text = Annotated[str, Limits(1, 4096)]
KeyText = Annotated[str, Limits(1, 65536)]
Address = Annotated[str, Limits(1, 256)]
Count = Annotated[int, Limits(1, 1024)]


def check(request: object) -> None:
    """Raise `UsageError` for a field of `request` that exceeds its limits; None is always possible."""
    for name, limits in _limits(type(request)).items():
        value = getattr(request, name)
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, str) and not limits.least <= len(one) <= limits.most:
                raise UsageError(f"{name} has {len(one)} characters; it must have {limits.least} to {limits.most}.")
            if isinstance(one, int | float) and not limits.least <= one <= limits.most:
                raise UsageError(f"{name} is {one}; it must lie between {limits.least} and {limits.most}.")


def _limits(kind: type) -> dict[str, Limits]:
    found = {name: _find(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}
    return {name: limits for name, limits in found.items() if limits is not None}


def _find(hint: Any) -> Limits | None:
    """Return the limits within a type, such as ``Text | None`` or ``list[Text]``."""
    for one in (*getattr(hint, "__metadata__", ()), *get_args(hint)):
        limits = one if isinstance(one, Limits) else _find(one)
        if limits is not None:
            return limits
    return None
