"""What is put into the storage, and what comes out of it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

#: Who may have a source: this device alone, the owner's devices, or contacts whom it was shared with.
Label = Literal["private", "swarm", "shared"]
#: Lines are counted from 1; 0 where there are none.
Line = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class Passage(msgspec.Struct, frozen=True):
    """A piece of a source that can be found and cited.

    Attributes
    ----------
    text
        What it says, as it stands in the source.
    kind
        Such as ``function``, ``section`` or ``cell``.
    name
        Qualified name, or the headings above it.
    first_line, last_line
        Its lines in the source, or in its cell.
    cell
        Id of the cell of a notebook.
    """

    text: str
    kind: str
    name: str = ""
    first_line: Line = 0
    last_line: Line = 0
    cell: str = ""


class Fingerprint(msgspec.Struct, frozen=True):
    """What tells whether a file has changed: its size (bytes), its time (ns), and the SHA-256 of what it says."""

    size: int
    modified: int
    hash: bytes

    def looks_like(self, size: int, modified: int) -> bool:
        """Whether a file of this size and time need not be read again."""
        return (self.size, self.modified) == (size, modified)


class Folder(msgspec.Struct, frozen=True):
    """A folder, or a file, that the owner has added."""

    id: int
    path: str
    label: Label


class Source(msgspec.Struct, frozen=True):
    """A source that is known, and its current version.

    Attributes
    ----------
    path
        Its path in the folder; empty where the owner has added just this file.
    parser
        What made its passages: with another one they are made anew.
    problem
        Why it has none, in a line.
    """

    id: int
    folder: int
    path: str
    fingerprint: Fingerprint
    parser: str
    passages: int
    problem: str


class StoredPassage(msgspec.Struct, frozen=True):
    """A passage of a current version, with where it stands."""

    id: int
    source: int
    folder: str
    path: str
    passage: Passage


class Found(msgspec.Struct, frozen=True):
    """A passage that was found; a larger score is better."""

    id: int
    score: float
