"""Entries of devices' journals, as they travel: signed by their device, and so believed whoever passes them on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from ainet.errors import Refused
from ainet.identity.keys import public_key_of, verifies
from ainet.identity.roster import Count, NodeId
from ainet.storage.journal import HASH, ITEM, OWN
from ainet.storage.records import Entry

if TYPE_CHECKING:
    from collections.abc import Callable

_DOMAIN = b"ainet context entry 1\0"
#: Bytes of the content of one source.
MAX_CONTENT = 64 * 1024 * 1024

Item = Annotated[bytes, msgspec.Meta(min_length=ITEM, max_length=ITEM)]


class SignedEntry(msgspec.Struct, frozen=True, array_like=True):
    """An `Entry`, with the id of the device on which its source is."""

    origin: NodeId
    item: Item
    seq: Count
    is_gone: bool
    hash: Annotated[bytes, msgspec.Meta(max_length=HASH)]
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_CONTENT)]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]

    def open(self, me: str) -> Entry:
        """Return the entry, as the device `me` (node id) keeps it.

        Raises
        ------
        Refused
            Its device did not sign it.
        """
        origin = OWN if self.origin == me else self.origin
        entry = Entry(origin, self.item, self.seq, self.is_gone, self.hash, self.size, self.signature)
        if not verifies(public_key_of(self.origin), self.signature, _message(self.origin, entry)):
            raise Refused("An entry of a journal is not signed by its device.")
        return entry


def said(entry: Entry, me: str) -> SignedEntry:
    """Return an entry that the device `me` (node id) keeps, as it travels."""
    origin = me if entry.origin == OWN else entry.origin
    return SignedEntry(origin, entry.item, entry.seq, entry.is_gone, entry.hash, entry.size, entry.signature)


def signer(me: str, sign: Callable[[bytes], bytes]) -> Callable[[Entry], bytes]:
    """Return what signs the entries of the device `me` with its key."""
    return lambda entry: sign(_message(me, entry))


def _message(origin: str, entry: Entry) -> bytes:
    return _DOMAIN + msgspec.msgpack.encode((origin, entry.item, entry.seq, entry.is_gone, entry.hash, entry.size))
