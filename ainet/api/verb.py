"""A verb: one thing that a node does for its owner.

It is written down once, in the module of its feature. Routes, `NodeClient`, the help of the command and its JSON output
follow from it; `Answers` knows which part of the node does it.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

import msgspec

import ainet.api
from ainet.api.limits import check
from ainet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds in which a verb that computes or fetches nothing must have answered.
SHORT = 30.0
#: Seconds for verbs that load, pair or start processes, all of which have limits of their own.
LONG = 600.0


@dataclass(frozen=True)
class Nothing:
    """A request or a reply without fields."""


@dataclass(frozen=True)
class Option:
    """A field of a request as an option of a subcommand.

    Parameters
    ----------
    help
        A line about it.
    metavar
        The placeholder for its value; a field without default is an argument by its place.
    flag
        The option's name, where it is not the field's.
    """

    help: str
    metavar: str | None = None
    flag: str | None = None


@dataclass(frozen=True, eq=False)
class Verb(Generic[P, R]):
    """One thing that a node does for its owner.

    Parameters
    ----------
    name
        The name in Python; in the command, with hyphens.
    help
        A line about it.
    method, path
        Of its route below ``/ainet/api/``; fields of the request stand in braces in the path.
    request
        The dataclass of what is asked. Fields travel in the path, and all others as JSON or, with GET, in the query.
    reply
        The type of what is answered.
    timeout
        Seconds in which it must be answered.
    """

    name: str
    help: str
    method: str
    path: str
    request: Callable[P, object]
    reply: type[R]
    timeout: float = SHORT

    @property
    def in_path(self) -> list[str]:
        """The names of the fields that stand in the path."""
        return re.findall(r"{(\w+)}", self.path)

    def make(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """Return the fields of a request, as JSON has them; raises `UsageError` for what exceeds limits."""
        request = self.request(*args, **kwargs)
        check(request)
        fields: dict[str, Any] = msgspec.to_builtins(request)
        return fields

    def read(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of what answers it, from the fields of a request as they came.

        Raises
        ------
        UsageError
            They are not those of a request of this kind, or exceed its limits.
        """
        kind = cast("type[Any]", self.request)
        try:
            # Browsers add to a query what is none of ours.
            request = read({} if kind is Nothing else fields, kind, strict=self.method != "GET")
        except ValueError as exc:
            raise UsageError(f"The request is not understood: {exc}.") from exc
        check(request)
        return {name: getattr(request, name) for name in inspect.signature(kind).parameters}


T = TypeVar("T")


def read(fields: Any, kind: type[T], *, strict: bool = True) -> T:
    """Return what JSON says as a `kind`; raises `ValueError` for values that do not fit and for unknown fields."""
    if dataclasses.is_dataclass(kind) and isinstance(fields, dict):
        known = {field.name for field in dataclasses.fields(kind)}
        for name in fields:
            if name not in known:
                raise ValueError(f"Object contains unknown field `{name}`")
    return msgspec.convert(fields, kind, strict=strict, str_keys=True)


@cache
def all_verbs() -> dict[str, Verb[Any, Any]]:
    """Return the verbs of all features by their names."""
    found: dict[str, Verb[Any, Any]] = {}
    for module in pkgutil.iter_modules(ainet.api.__path__):
        feature = importlib.import_module(f"{ainet.api.__name__}.{module.name}")
        for value in vars(feature).values():
            if isinstance(value, Verb):
                assert found.setdefault(value.name, value) is value, f"two verbs are called {value.name}"  # noqa: S101
    return found
