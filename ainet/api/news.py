"""News: what has changed in a node, for whoever listens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import msgspec

from ainet.api.context import ContextFolder
from ainet.api.generate import Failed, PlacedStage
from ainet.api.ledger import PairBalance
from ainet.api.market import SoldModel
from ainet.api.swarm import MemberState
from ainet.errors import AinetError

#: The route that streams news, and its argument: kinds, with commas between them.
PATH, KINDS = "watch", "kinds"

#: What there is news of.
Kind = Literal["members", "links", "placements", "sessions", "downloads", "context", "ledger", "offers"]

T = TypeVar("T")


@dataclass(frozen=True)
class Changes(Generic[T]):
    """What has changed of one kind.

    Attributes
    ----------
    changed
        What is new or other than before, by its key.
    gone
        Keys of what is not there any more.
    is_whole
        Whether all there is stands in `changed`: what a listener knows besides is gone.
    """

    changed: dict[str, T]
    gone: list[str] = field(default_factory=list)
    is_whole: bool = False


@dataclass(frozen=True)
class LinkState:
    """A link to another device.

    Attributes
    ----------
    is_member
        Whether it is one of the owner's devices; otherwise it is a contact's.
    path
        The way to it, in words.
    is_relayed
        Whether another member hands everything on.
    latency_s
        Seconds there and back, to two digits; None until it was measured.
    """

    name: str
    is_member: bool
    path: str
    is_relayed: bool
    latency_s: float | None


@dataclass(frozen=True)
class Placement:
    """A model that this node has loaded.

    Attributes
    ----------
    stages
        The process of each range of layers, in order.
    sessions
        How many answers use it, or are about to.
    received_bytes
        Bytes that each device fetched to load it, by name.
    """

    model: str
    stages: list[PlacedStage]
    sessions: int
    received_bytes: dict[str, int]


@dataclass(frozen=True)
class StageTime:
    """How long a stage takes for a token (s), and how long it then waits for the others, in a session.

    Attributes
    ----------
    device
        Its name.
    compute_s
        Measured over the last tokens of all sessions.
    waiting_s
        The rest of the time between two tokens.
    """

    device: str
    first_layer: int
    last_layer: int
    compute_s: float
    waiting_s: float


@dataclass(frozen=True)
class Session:
    """An answer of this node's pipelines while it grows.

    Attributes
    ----------
    model, placement
        The model's name, and the key of its placement.
    asked_by
        The name of the device that asks.
    prompt_tokens, generated_tokens
        Tokens of the question, 0 until it was accepted, and of the answer so far.
    tokens_per_s
        The speed of the last seconds; 0 until two tokens are there.
    stages
        Where it is computed.
    """

    model: str
    placement: str
    asked_by: str
    prompt_tokens: int
    generated_tokens: int
    tokens_per_s: float
    stages: list[StageTime]


@dataclass(frozen=True)
class Download:
    """A model that is being loaded: what is done for it, and how much of it; `total` is 0 where that is not known."""

    model: str
    text: str
    done: int
    total: int
    unit: str


@dataclass(frozen=True, kw_only=True)
class News:
    """What has changed since the last news; None where nothing of a kind has.

    The first news that a listener hears is all there is of the kinds that it wants. Nothing queues up: a listener that
    is slow hears less often, and then the newest.

    Attributes
    ----------
    members
        By node id; the time at which a linked one was seen last is that of a minute.
    links
        Of members and contacts, by node id.
    placements, sessions, downloads
        By keys that mean nothing else.
    context
        Folders that the owner has added, by path.
    ledger
        Balances, by the contact's name.
    offers
        What this node sells, by the model's name.
    """

    members: Changes[MemberState] | None = None
    links: Changes[LinkState] | None = None
    placements: Changes[Placement] | None = None
    sessions: Changes[Session] | None = None
    downloads: Changes[Download] | None = None
    context: Changes[ContextFolder] | None = None
    ledger: Changes[PairBalance] | None = None
    offers: Changes[SoldModel] | None = None


class _Line(msgspec.Struct):
    event: str = ""


def decode_news(line: str | bytes) -> News | None:
    """Return the news in a line; None where it only says that the node is there.

    Raises
    ------
    AinetError
        The line says what went wrong, or cannot be read.
    """
    if not line.strip():
        return None
    try:
        if msgspec.json.decode(line, type=_Line).event:
            failed = msgspec.json.decode(line, type=Failed)
        else:
            return msgspec.json.decode(line, type=News)
    except msgspec.DecodeError as exc:
        raise AinetError(f"The node's news are not understood ({exc}). Restart the node and this kernel.") from exc
    raise AinetError.from_dict(failed.error)
