"""The requests with which the owner's devices bring each other up to date."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ainet.identity.roster import Count, NodeId
from ainet.links.request import Request
from ainet.replication.entries import Item, SignedEntry
from ainet.storage.journal import SALT

#: Entries in one message, and devices of which they can be.
MAX_ENTRIES, MAX_ORIGINS = 2000, 1024
#: Vectors in one message, and bytes of one.
MAX_VECTORS, MAX_VECTOR = 256, 64 * 1024
#: Bytes of a content in one message, so that others of the link pass in between.
PIECE = 256 * 1024


class JournalEntries(msgspec.Struct, frozen=True):
    """Entries, those of one device in their order.

    Attributes
    ----------
    more
        Whether there are others.
    own
        How many entries of its own the device has that answers, and the sum of their numbers: who knows others was told
        them before it was restored from a backup.
    """

    entries: Annotated[list[SignedEntry], msgspec.Meta(max_length=MAX_ENTRIES)]
    more: bool = False
    own: tuple[Count, Count] | None = None


class SyncJournals(Request, frozen=True):
    """Ask for the entries that go beyond what the asker knows: of each device, up to a number."""

    reply = JournalEntries

    known: Annotated[dict[NodeId, Count], msgspec.Meta(max_length=MAX_ORIGINS)]


class TellJournal(Request, frozen=True):
    """Tell a device which entries of its own are known of it: all after a number, up to the last of them."""

    entries: Annotated[list[SignedEntry], msgspec.Meta(max_length=MAX_ENTRIES)]
    after: Count


class ContentPiece(msgspec.Struct, frozen=True):
    """A part of a content, which is compressed (zlib) as a whole."""

    data: Annotated[bytes, msgspec.Meta(max_length=PIECE)]


class ContentEnd(msgspec.Struct, frozen=True):
    """That all of a content was sent, and its salt."""

    salt: Annotated[bytes, msgspec.Meta(min_length=SALT, max_length=SALT)]


class ReadContent(Request, frozen=True):
    """Ask for a version of a source."""

    reply = ContentEnd
    progress = ContentPiece

    origin: NodeId
    item: Item
    seq: Count


PackedVector = Annotated[bytes, msgspec.Meta(max_length=MAX_VECTOR)]


class VectorPlace(msgspec.Struct, frozen=True, array_like=True):
    """A passage: a position in a version of a source."""

    origin: NodeId
    item: Item
    seq: Count
    position: Count


class Vectors(msgspec.Struct, frozen=True):
    """Vectors as little-endian 32-bit floats, in the order in which they were asked for; empty where there is none."""

    vectors: Annotated[list[PackedVector], msgspec.Meta(max_length=MAX_VECTORS)]


class ReadVectors(Request, frozen=True):
    """Ask for vectors that a model (its SHA-256, in hexadecimal) has made of passages."""

    reply = Vectors

    model: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    places: Annotated[list[VectorPlace], msgspec.Meta(max_length=MAX_VECTORS)]
