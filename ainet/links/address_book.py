"""The addresses of members, as they or others told them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ainet.files import KeptFile
from ainet.links.frames import MAX_HINTS, Hint
from ainet.wire.address import can_be_dialled

if TYPE_CHECKING:
    import logging
    from pathlib import Path


MAX_ADDRESSES = 12  # of one member
TOLD_ADDRESSES = 4  # of one member, to others


class _Book(msgspec.Struct):
    port: int = 0
    hints: list[Hint] = []


class AddressBook:
    """The addresses of members, as they or others told them, and this node's own port.

    Parameters
    ----------
    path
        The file in which it is kept.
    log
        For what cannot be written.
    """

    def __init__(self, path: Path, log: logging.Logger) -> None:
        self._file = KeptFile(path, log)
        self._seen: dict[str, dict[str, float]] = {}
        try:
            book = msgspec.json.decode(path.read_bytes(), type=_Book)
        except (OSError, msgspec.DecodeError):
            book = _Book()  # only hints: members tell theirs again
        self.port = book.port
        for hint in book.hints:
            self.learn(hint, hint.seen)

    def learn(self, hint: Hint, now: float) -> None:
        """Note a member's address, unless a newer note exists."""
        if not can_be_dialled(hint.address):
            return
        known = self._seen.setdefault(hint.id, {})
        if known.get(hint.address, 0.0) < (seen := min(hint.seen, now)):
            known[hint.address] = seen
            for address in sorted(known, key=known.__getitem__)[:-MAX_ADDRESSES]:
                del known[address]

    def addresses(self, node_id: str) -> list[str]:
        """Return the member's addresses, the most recent first."""
        known = self._seen.get(node_id, {})
        return sorted(known, key=known.__getitem__, reverse=True)

    def last_seen(self, node_id: str) -> float | None:
        """Return when the member was last known to be reachable (unix seconds)."""
        return max(self._seen.get(node_id, {}).values(), default=None)

    def hints(self) -> list[Hint]:
        """Return the newest notes of each member, as many as one message may have."""
        found = [
            Hint(node, address, known[address])
            for node, known in self._seen.items()
            for address in sorted(known, key=known.__getitem__)[-TOLD_ADDRESSES:]
        ]
        return sorted(found, key=lambda hint: hint.seen)[-MAX_HINTS:]

    def keep_only(self, node_ids: set[str]) -> None:
        """Forget everybody else."""
        self._seen = {node: known for node, known in self._seen.items() if node in node_ids}

    def save(self) -> None:
        """Write the file, soon."""
        self._file.write(msgspec.json.encode(_Book(self.port, self.hints())))

    async def flush(self) -> None:
        """Wait until it is written."""
        await self._file.flush()
