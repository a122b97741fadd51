"""Signed logs: what one device says of itself, in an order that everybody can check.

An entry is a change of a small dictionary, signed by its author's device key and tied to the entry before by its hash.
Entries travel through anybody and are believed for their signature alone. A snapshot holds the whole dictionary and
makes what came before it superfluous. A higher epoch begins anew: so a device goes on that was restored from a backup.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from ainet.errors import Refused
from ainet.identity.keys import public_key_of, verifies
from ainet.identity.roster import Count, NodeId

if TYPE_CHECKING:
    from collections.abc import Callable

_DOMAIN = b"ainet log entry 1\0"
MAX_BODY = 64 * 1024  # bytes of one entry
MAX_STATE = 256 * 1024  # bytes of what a log says in all
MAX_KEYS = 512
MAX_ENTRIES = 1024  # since the last snapshot

FeedName = Annotated[str, msgspec.Meta(pattern="^[a-z]{1,32}$")]
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
State = dict[str, msgspec.Raw]


class Body(msgspec.Struct, frozen=True, array_like=True):
    """The content of an entry.

    Attributes
    ----------
    author
        Node id.
    log
        Which of the author's logs.
    epoch, seq
        Its place: a higher epoch replaces everything of a lower one; within an epoch, entries count from 0.
    previous
        SHA-256 of the entry before; empty for a snapshot, which needs none.
    time
        The author's clock (unix seconds): for people, never for order.
    changes
        Keys and their new values (msgpack; null removes a key). In a snapshot, everything.
    """

    author: NodeId
    log: FeedName
    epoch: Count
    seq: Count
    previous: Annotated[bytes, msgspec.Meta(max_length=32)]
    time: float
    changes: Annotated[dict[Key, msgspec.Raw], msgspec.Meta(max_length=MAX_KEYS)]

    @property
    def is_snapshot(self) -> bool:
        """Whether it holds the whole dictionary."""
        return not self.previous


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An encoded `Body`, and its author's signature."""

    body: Annotated[bytes, msgspec.Meta(max_length=MAX_BODY)]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the body."""
        return hashlib.sha256(self.body).digest()

    def open(self) -> Body:
        """Return the body.

        Raises
        ------
        Refused
            It is no body, or its author did not sign it.
        """
        try:
            body = msgspec.msgpack.decode(self.body, type=Body)
        except (ValueError, RecursionError) as exc:
            raise Refused(f"A log entry cannot be read ({exc}).") from exc
        if not verifies(public_key_of(body.author), self.signature, _DOMAIN + self.body):
            raise Refused("A log entry is not signed by its author.")
        return body


def make_entry(body: Body, sign: Callable[[bytes], bytes]) -> Entry:
    """Return `body` as an entry.

    Parameters
    ----------
    sign
        Signs with the author's device key.

    Raises
    ------
    Refused
        It is too large.
    """
    encoded = msgspec.msgpack.encode(body)
    if len(encoded) > MAX_BODY:
        raise Refused(f"An entry of {len(encoded):,} bytes is too large for a log, which takes {MAX_BODY:,}.")
    return Entry(encoded, sign(_DOMAIN + encoded))


class Place(msgspec.Struct, frozen=True, array_like=True):
    """The part of a log that is known; `digest` is that of the last entry."""

    epoch: Count
    seq: Count
    digest: Annotated[bytes, msgspec.Meta(max_length=32)] = b""

    @property
    def order(self) -> tuple[int, int]:
        """The order of places."""
        return self.epoch, self.seq


class Feed:
    """One log of one author: its entries since the last snapshot, and what they say together."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.state: State = {}
        self.place: Place | None = None

    def accepts(self, body: Body) -> bool:
        """Whether the entry is the next one, or a snapshot that leads further than what is known."""
        if self.place is None or body.is_snapshot:
            return body.is_snapshot and (self.place is None or (body.epoch, body.seq) > self.place.order)
        if len(self.entries) >= MAX_ENTRIES:
            return False  # its author should have compacted it long ago
        following = (body.epoch, body.seq) == (self.place.epoch, self.place.seq + 1)
        return following and body.previous == self.place.digest

    def add(self, entry: Entry, body: Body) -> None:
        """Append an entry that `accepts` has accepted.

        Raises
        ------
        Refused
            The log would say more than `MAX_STATE` bytes.
        """
        state = {} if body.is_snapshot else dict(self.state)
        for key, value in body.changes.items():
            if bytes(value) == NULL:
                state.pop(key, None)
            else:
                state[key] = value.copy()
        size = sum(len(key) + len(bytes(value)) for key, value in state.items())
        if size > MAX_STATE or len(state) > MAX_KEYS:
            raise Refused(f"The log {body.log} of {body.author[:8]} is too large ({size:,} bytes, {len(state)} keys).")
        self.state = state
        self.entries = [entry] if body.is_snapshot else [*self.entries, entry]
        self.place = Place(body.epoch, body.seq, entry.digest)

    def since(self, place: Place | None) -> list[Entry]:
        """Return the entries that somebody lacks who knows the log up to `place`; all of them when in doubt."""
        digests = [entry.digest for entry in self.entries]
        return self.entries[digests.index(place.digest) + 1 :] if place and place.digest in digests else self.entries

    def get(self, key: str, kind: type[Any]) -> Any:
        """Return the value of `key` as a `kind`; None when it is missing or something else."""
        try:
            return msgspec.msgpack.decode(self.state[key], type=kind) if key in self.state else None
        except (ValueError, RecursionError):
            return None


NULL = msgspec.msgpack.encode(None)
