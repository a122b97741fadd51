"""Kinds of documents: whose name begins so, who may have it, and when it is fetched."""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ainet.errors import Refused, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from ainet.identity.identity import Identity

NOT_SHARED = "That is not shared with this device."
_OWN_NAME = re.compile(r"[^/\x00-\x1f\x7f]{1,128}")


class Access(Protocol):
    """The rule for who may have a document."""

    def check_read(self, document: str, node: str) -> None:
        """Raise `Refused` unless the node may have the document."""

    def check_write(self, document: str, node: str) -> None:
        """Raise `Refused` unless the node may change the document."""

    def contacts(self, document: str) -> Collection[str]:
        """Return the contacts (node ids) that the document is exchanged with."""


class Fetch(enum.Enum):
    """The moment at which a device takes a document that another one has."""

    WHEN_MET = enum.auto()
    ONCE_OPENED = enum.auto()


class Kind(NamedTuple):
    """The documents whose name begins with one prefix.

    Attributes
    ----------
    prefix
        ``folder/`` for any number of documents, or the name of a single one.
    access
        The devices that may have them.
    fetch
        The moment at which they are fetched.
    stays
        Whether a device that was alone keeps its own when it joins a swarm.
    """

    prefix: str
    access: Access
    fetch: Fetch
    stays: bool

    def includes(self, name: str) -> bool:
        """Whether this can be the name of such a document: behind a folder, 1 to 128 characters without a slash."""
        if not self.prefix.endswith("/"):
            return name == self.prefix
        return name.startswith(self.prefix) and _OWN_NAME.fullmatch(name.removeprefix(self.prefix)) is not None


class MembersOnly:
    """Every member may have and change a document, and nobody else.

    Parameters
    ----------
    identity
        Of this device, which knows the members.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def check_read(self, _document: str, node: str) -> None:
        """Raise `Refused` unless the node is a member."""
        if self._identity.roster.member(node) is None:
            raise Refused(NOT_SHARED)

    check_write = check_read

    def contacts(self, _document: str) -> Collection[str]:
        """Return none."""
        return ()


class _Nobody:
    def check_read(self, _document: str, _node: str) -> None:
        raise Refused(NOT_SHARED)

    check_write = check_read

    def contacts(self, _document: str) -> Collection[str]:
        return ()


class Kinds:
    """The kinds that were registered."""

    def __init__(self) -> None:
        self._kinds: list[Kind] = []

    def add(self, kind: Kind) -> None:
        """Register a kind; raises `ValueError` when there is one with such a prefix."""
        if any(kind.prefix.startswith(one.prefix) or one.prefix.startswith(kind.prefix) for one in self._kinds):
            raise ValueError(f"There are documents called {kind.prefix} already.")
        self._kinds.append(kind)

    def of(self, name: str) -> Kind:
        """Return the kind of the document; one that nobody has registered is for nobody."""
        for kind in self._kinds:
            if kind.includes(name):
                return kind
        return Kind(name, _Nobody(), Fetch.ONCE_OPENED, stays=True)

    def check_name(self, name: str) -> None:
        """Raise `UsageError` unless `name` can be that of a document."""
        if not any(kind.includes(name) for kind in self._kinds):
            raise UsageError(
                f"{name[:200]!r} cannot be the name of a shared document: use 1 to 128 characters without a slash."
            )
