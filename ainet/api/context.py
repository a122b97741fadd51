"""What the node knows of its owner's files, and finding it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from ainet.api.limits import Count, Limits, Text
from ainet.api.verb import LONG, Nothing, Option, Verb

Label = Literal["private", "swarm", "shared"]
Path = Annotated[Text, Option("the folder or file", metavar="PATH")]


@dataclass(frozen=True, kw_only=True)
class ContextProblem:
    """A file that cannot be read, and why."""

    path: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class ContextFolder:
    """A folder, or a file, that the owner has added.

    Attributes
    ----------
    files, passages
        How many are known; a passage is a piece that can be found.
    problems
        How many files cannot be read.
    is_reading
        Whether it is looked through; `done` of `total` changed files were read then.
    failed
        Why it could not be looked through the last time.
    shared_with
        Names of contacts.
    """

    path: str
    label: Label
    files: int
    passages: int
    problems: int
    is_reading: bool = False
    done: int = 0
    total: int = 0
    failed: str = ""
    shared_with: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ContextVectorState:
    """The vectors of one model.

    Attributes
    ----------
    left
        Passages that have no vector yet.
    owed
        Vectors of passages that are gone, which are still on the disk.
    """

    name: str
    left: int
    owed: int


@dataclass(frozen=True, kw_only=True)
class ContextDevice:
    """Another device of the owner's.

    Attributes
    ----------
    documents, here, passages
        How many documents it has for others; how many of them are here as they are now; their passages.
    """

    name: str
    documents: int
    here: int
    passages: int


@dataclass(frozen=True, kw_only=True)
class Remembering:
    """Whether what is done in a notebook is remembered, and how many cells and conversations of it are."""

    path: str
    on: bool
    items: int


@dataclass(frozen=True, kw_only=True)
class ContextState:
    """What is known.

    Attributes
    ----------
    size
        Bytes on the disk.
    problems
        The first of them.
    unwatched
        Why changes are found late, where they are.
    vectors_failed
        Why no vectors are made, where they are not.
    devices
        The owner's other devices that have documents for this one.
    is_scrubbed
        Whether no words of what was removed are on the disk.
    notebooks
        The notebooks of which cells or conversations are remembered.
    """

    folders: list[ContextFolder]
    size: int
    problems: list[ContextProblem] = field(default_factory=list)
    is_paused: bool = False
    unwatched: str = ""
    vectors: list[ContextVectorState] = field(default_factory=list)
    vectors_failed: str = ""
    devices: list[ContextDevice] = field(default_factory=list)
    is_scrubbed: bool = True
    notebooks: list[Remembering] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ContextCheck:
    """What does not agree, in sentences; nothing where all is well."""

    problems: list[str]


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """The files that are not known any more; `elsewhere`: those of other devices that say the same."""

    paths: list[str]
    elsewhere: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class FoundPassage:
    """A passage that was found.

    Attributes
    ----------
    path
        The file.
    line, end_line
        Its lines in the file, or in its cell, from 1; 0 where there are none.
    cell
        Id of a cell of a notebook, or anchor of a page.
    kind, name
        Such as ``function`` and its qualified name.
    score
        Larger is better; of one question only.
    reason
        Why it was found.
    best_line
        The line on which the sentence begins that has most in common with the question; 0 where there are no lines.
    device
        The name of the device on which the file is; empty: this one.
    """

    path: str
    cell: str
    line: int
    end_line: int
    score: float
    text: str
    kind: str
    name: str
    reason: str = ""
    best_line: int = 0
    device: str = ""


@dataclass(frozen=True, kw_only=True)
class FoundPassages:
    """What was found, the best first; `unasked`: devices that have documents which are not here, and are away."""

    results: list[FoundPassage]
    unasked: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PassagesFor:
    """The passages that would go along with a question, the best first; `note` says why there are none.

    For `unasked`, see `FoundPassages`.
    """

    results: list[FoundPassage]
    note: str = ""
    unasked: list[str] = field(default_factory=list)


def unasked_words(names: list[str]) -> list[str]:
    """Return what is said of devices that could not be asked."""
    return [f"{name} has more documents, and could not be asked: it is away" for name in names]


@dataclass(frozen=True, kw_only=True)
class TraceNode:
    """A passage in a trace; `is_asked`: whether it is what was asked for."""

    id: int
    path: str
    line: int
    cell: str
    name: str
    is_asked: bool


@dataclass(frozen=True)
class TraceEdge:
    """That the passage `end` needs the passage `begin`, and in which way (`kind`), such as ``calls``."""

    begin: int
    end: int
    kind: str


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What leads to something, and what it leads to."""

    nodes: list[TraceNode]
    edges: list[TraceEdge]


@dataclass(frozen=True)
class TraceRequest:
    """What is traced, where, and how far."""

    name: Annotated[Text, Option("a function, a class, or a variable of a notebook", metavar="NAME")]
    folder: Annotated[Text | None, Option("only in this folder or file", metavar="FOLDER", flag="in")] = None
    depth: Annotated[Count, Option("over N steps", metavar="N")] = 2


@dataclass(frozen=True)
class FolderRequest:
    """The folder or file, and who may have what is in it."""

    path: Path
    label: Annotated[Label | None, Option("who may have it: private, swarm or shared", metavar="LABEL")] = None
    audience: Annotated[tuple[Text, ...], Option("a contact that it is shared with", metavar="CONTACT")] = ()


@dataclass(frozen=True)
class PathRequest:
    """The folder or file."""

    path: Path


@dataclass(frozen=True)
class PauseRequest:
    """Whether to look at nothing."""

    on: Annotated[bool, Option("look at nothing; or go on")] = True


@dataclass(frozen=True)
class ForgetRequest:
    """What to forget: a file or folder, or files that say something."""

    path: Annotated[Text | None, Option("the file or folder", metavar="PATH")] = None
    query: Annotated[Text | None, Option("words that stand in the files", metavar="TEXT")] = None


@dataclass(frozen=True)
class FindRequest:
    """What is asked, and where; `most` passages are returned."""

    text: Annotated[Text, Option("what to find", metavar="TEXT")]
    folder: Annotated[Text | None, Option("only in this folder", metavar="FOLDER", flag="in")] = None
    kind: Annotated[Text | None, Option("only passages of this kind, such as function", metavar="KIND")] = None
    most: Annotated[Count, Option("at most N passages", metavar="N")] = 10
    alone: Annotated[bool, Option("ask no other device")] = False


RememberMode = Literal["on", "off", "forget", "status"]
RememberedKind = Literal["cell", "conversation"]
#: Characters of a cell, or of its output, that are remembered.
Remembered = Annotated[str, Limits(0, 100_000)]


@dataclass(frozen=True)
class RememberRequest:
    """The notebook, and what becomes of what is done in it."""

    path: Path
    mode: Annotated[RememberMode, Option("on, off, forget or status", metavar="MODE")] = "status"


@dataclass(frozen=True, kw_only=True)
class RememberItemRequest:
    """What was done: the id of a cell, or of a conversation; its text, its output, and its execution count."""

    path: Path
    item: Annotated[Text, Option("its id", metavar="ID")]
    kind: Annotated[RememberedKind, Option("cell or conversation", metavar="KIND")]
    text: Annotated[Remembered, Option("its text", metavar="TEXT")]
    output: Annotated[Remembered, Option("its output", metavar="TEXT")] = ""
    ran: Annotated[int, Option("when it ran", metavar="N")] = 0


context_remember = Verb(
    "context_remember",
    "remember what is done in a notebook, or forget it",
    "POST",
    "context/remember",
    RememberRequest,
    Remembering,
    LONG,
)
context_remember_item = Verb(
    "context_remember_item",
    "remember a cell that was executed, or a question with its answer",
    "POST",
    "context/remembered",
    RememberItemRequest,
    Remembering,
)
context_add = Verb(
    "context_add", "let the node know a folder or file", "POST", "context/folders", FolderRequest, ContextState
)
context_remove = Verb(
    "context_remove", "let the node forget it", "DELETE", "context/folders", PathRequest, ContextState, LONG
)
trace = Verb(
    "trace", "show what leads to something, and what it leads to", "POST", "context/trace", TraceRequest, Trace
)
quote = Verb(
    "quote",
    "find the passages that answer a question, if there are any",
    "POST",
    "context/quote",
    FindRequest,
    PassagesFor,
)
context_pause = Verb(
    "context_pause", "look at no files for a while, or go on", "POST", "context/pause", PauseRequest, ContextState
)
context_forget = Verb(
    "context_forget",
    "forget files, until their folder is added again",
    "POST",
    "context/forget",
    ForgetRequest,
    Forgotten,
    LONG,
)
context_check = Verb(
    "context_check", "compare everything with everything", "GET", "context/check", Nothing, ContextCheck, LONG
)
context_rebuild = Verb(
    "context_rebuild", "make the indexes anew", "POST", "context/rebuild", Nothing, ContextState, LONG
)
context = Verb("context", "tell what the node knows", "GET", "context", Nothing, ContextState)
find = Verb("find", "find passages in what the node knows", "POST", "context/find", FindRequest, FoundPassages)
