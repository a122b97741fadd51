"""Authors of signed logs."""

from __future__ import annotations

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ainet.identity.keys import node_id
from ainet.swarm.feed import Body, Entry, Feed, make_entry

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
AUTHOR = node_id(KEY.public_key())


class Author:
    """Writes a log, remembering what it said after each entry."""

    def __init__(self) -> None:
        self.log = Feed()
        self.entries: list[Entry] = []
        self.states: list[dict[str, bytes]] = []
        self.epoch = self.seq = 0

    def say(self, changes, *, snapshot=False, epoch=None):
        if epoch is not None:
            self.epoch, self.seq, snapshot = epoch, 0, True
        snapshot = snapshot or not self.entries
        encoded = {key: msgspec.Raw(msgspec.msgpack.encode(value)) for key, value in changes.items()}
        said = {**self.log.state, **encoded} if snapshot else encoded
        previous = b"" if snapshot else self.log.place.digest
        body = Body(AUTHOR, "capabilities", self.epoch, self.seq, previous, 1.0, said)
        entry = make_entry(body, KEY.sign)
        self.log.add(entry, entry.open())
        self.entries.append(entry)
        self.states.append(plain(self.log))
        self.seq += 1
        return entry


def plain(log):
    return {key: bytes(value) for key, value in log.state.items()}
