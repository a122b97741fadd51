"""What is put into the storage, and what comes out of it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

#: Who may have a source: this device alone, the owner's devices, or contacts whom it was shared with.
Label = Literal["private", "swarm", "shared"]
#: Lines are counted from 1; 0 where there are none.
Line = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


#: What one piece has to do with another. Of a notebook's cells: which variables they use and assign.
RelationKind = Literal[
    "calls", "imports", "inherits", "raises", "catches", "reads", "writes", "uses", "assigns", "links", "mentions"
]


class Relation(msgspec.Struct, frozen=True):
    """That a passage has to do with something, by its name.

    Attributes
    ----------
    target
        ``os.path.join``, ``.sibling.name`` (relative to the file), ``:Class.method`` (in the same file), ``?.method``
        (of something unknown), or the name of a file.
    """

    kind: RelationKind
    target: str


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
    ran
        Which cell of its notebook ran how late: its execution count; 0 for what did not run.
    relations
        What it has to do with others.
    """

    text: str
    kind: str
    name: str = ""
    first_line: Line = 0
    last_line: Line = 0
    cell: str = ""
    ran: int = 0
    relations: tuple[Relation, ...] = ()


class Fingerprint(msgspec.Struct, frozen=True):
    """What tells whether a file has changed: its size (bytes), its time (ns), and the SHA-256 of what it says."""

    size: int
    modified: int
    hash: bytes

    def looks_like(self, size: int, modified: int) -> bool:
        """Whether a file of this size and time need not be read again."""
        return (self.size, self.modified) == (size, modified)


class Folder(msgspec.Struct, frozen=True):
    """A folder, or a file, that the owner has added.

    Attributes
    ----------
    origin
        The device on which it is (node id); empty: this one. The path of a folder on another one begins with it.
    """

    id: int
    path: str
    label: Label
    origin: str = ""


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
    """A passage of a current version, with where it stands, and when that was written (ns since 1970)."""

    id: int
    source: int
    folder: str
    path: str
    dated: int
    passage: Passage


class Found(msgspec.Struct, frozen=True):
    """A passage that was found; a larger score is better."""

    id: int
    score: float


class VectorIndex(msgspec.Struct, frozen=True):
    """The vectors of one model.

    Attributes
    ----------
    model
        SHA-256 of the model, in hexadecimal.
    table, next_table
        Where its vectors are, and where they go when they are written anew.
    owed
        Vectors of passages that are gone, which are still on the disk.
    is_urgent
        Whether some of them were forgotten, and did not only change.
    left
        Passages that have no vector yet.
    """

    id: int
    model: str
    name: str
    dimensions: int
    generation: int
    owed: int
    is_urgent: bool
    left: int

    @property
    def table(self) -> str:
        return _table(self.model, self.generation)

    @property
    def next_table(self) -> str:
        return _table(self.model, self.generation + 1)


class Unembedded(msgspec.Struct, frozen=True):
    """A passage that has no vector yet, and the text that is to have one: with its path where it is code."""

    id: int
    text: str


def _table(model: str, generation: int) -> str:
    return f"{model[:16]}_{generation}"


class Definition(msgspec.Struct, frozen=True):
    """A passage that defines something: the last part of its name, and the name as a whole in its file."""

    passage: int
    symbol: str
    name: str
    source: int
    path: str


class Related(msgspec.Struct, frozen=True):
    """A passage that has to do with another one (`to`), and how certain that is, from 0 to 1."""

    passage: int
    kind: RelationKind
    weight: float
    to: int = 0


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """That there is a version of a source on a device of the owner's, or that the source is gone.

    Attributes
    ----------
    origin
        The device (node id); empty: this one.
    item
        A random name of the source.
    seq
        Larger ones are newer; of one device, no two entries have the same.
    hash, size
        Of the content, which tells its path and passages; salted, as it would tell who knows a file that it is there.
    signature
        The device's; empty where it has not signed yet.
    """

    origin: str
    item: bytes
    seq: int
    is_gone: bool
    hash: bytes
    size: int
    signature: bytes


class OthersEntry(msgspec.Struct, frozen=True):
    """An entry of another device, its source, if some version of it is here, and whether that is the newest one."""

    entry: Entry
    source: int | None
    is_here: bool


class SourceContent(msgspec.Struct, frozen=True, array_like=True):
    """What another device needs to know of a source in order to find what is in it.

    Attributes
    ----------
    folder
        The path of the folder that was added, on the device on which it is.
    path, size, hash, parser
        As of a `Source`.
    dated
        When this version was written (ns since 1970).
    """

    folder: str
    path: str
    dated: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    size: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    hash: bytes
    parser: str
    passages: tuple[Passage, ...]


class PassagePlace(msgspec.Struct, frozen=True):
    """Where devices that have the same version of a source find a passage: at this position in it, from 0."""

    origin: str
    item: bytes
    seq: int
    position: int


class Kept(msgspec.Struct, frozen=True):
    """How much of another device's sources is here.

    Attributes
    ----------
    all, whole, found, passages
        Sources that it has; those of which the newest version is here; those of which some version is; their passages.
    """

    all: int
    whole: int
    found: int
    passages: int
