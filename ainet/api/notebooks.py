"""Notebooks that several devices edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from ainet.api.limits import Text
from ainet.api.verb import LONG, Nothing, Option, Verb

#: Most devices that a notebook is shared with by name.
MAX_AUDIENCE = 64


# Two types are no dataclasses: in JSON a field is called "with", which no name in Python can be.
class ListedNotebook(msgspec.Struct, frozen=True, rename={"audience": "with"}):
    """A shared notebook.

    Attributes
    ----------
    name
        The name for the others.
    by, own
        The device that shares it, and whether that is this one.
    audience
        Whom it is shared with; ``swarm`` are all members.
    read_only
        Whether the others may only read it.
    path
        Its file on this device; None where it is not open.
    """

    name: str
    by: str
    own: bool
    audience: list[str]
    read_only: bool
    path: str | None


class SharedNotebook(msgspec.Struct, frozen=True, rename={"audience": "with"}):
    """A notebook that this device shares from now on; see `ListedNotebook`."""

    name: str
    path: str
    read_only: bool
    audience: list[str]


class ShareRequest(msgspec.Struct, frozen=True, rename={"audience": "with"}, forbid_unknown_fields=True):
    """Which notebook to share, under which name, whether the others may change it, and who they are."""

    path: Text
    name: Text | None = None
    read_only: bool = False
    audience: Annotated[list[Text], msgspec.Meta(max_length=MAX_AUDIENCE + 1)] = []


@dataclass(frozen=True)
class UnshareRequest:
    """Which notebook to share no more."""

    name: Annotated[Text, Option("its name", metavar="NAME")]


@dataclass(frozen=True)
class Unshared:
    """The name of the notebook that is shared no more."""

    name: str


@dataclass(frozen=True)
class OpenRequest:
    """Which shared notebook to open, and as which file."""

    name: Annotated[Text, Option("its name", metavar="NAME")]
    path: Annotated[Text | None, Option("the file (default: NAME.ipynb)", metavar="PATH", flag="as")] = None


@dataclass(frozen=True)
class OpenedNotebook:
    """A shared notebook, its file on this device, and whether changes of it are undone."""

    name: str
    path: str
    read_only: bool


notebooks = Verb("notebooks", "list the shared notebooks", "GET", "notebooks", Nothing, list[ListedNotebook])
share = Verb("share", "share a notebook, live", "POST", "notebooks", ShareRequest, SharedNotebook, LONG)
unshare = Verb("unshare", "stop sharing a notebook", "DELETE", "notebooks/{name}", UnshareRequest, Unshared)
open_notebook = Verb(
    "open_notebook",
    "open a notebook that another device shares",
    "POST",
    "notebooks/open",
    OpenRequest,
    OpenedNotebook,
    LONG,
)
