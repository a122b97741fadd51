"""The journal: one entry for each source that the owner's devices may have, signed by the device on which it is.

An entry says by random names and hashes which version there is, or that the source is gone. The highest number of an
item holds; the others are not kept. So whoever knows the entries of a device up to a number asks for those after it,
and may ask anybody who has them.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import TYPE_CHECKING

import msgspec

from ainet.errors import NotFound, Refused
from ainet.storage.records import Entry, OthersEntry, Passage, Relation, SourceContent

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

#: Bytes of the names of items, of salts and of hashes.
ITEM, SALT, HASH = 16, 16, 32
#: Entries of one device.
MOST_ENTRIES = 500_000
#: The origin of this device's own entries.
OWN = ""
_COLUMNS = "origin, item, seq, is_gone, hash, size, signature"
_WITH_SOURCE = f"SELECT {_COLUMNS}, source"


class Journal:
    """The entries of all devices. Each call that changes something belongs in a transaction of the caller's.

    Parameters
    ----------
    database
        With the tables of `schema`.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    # What is on this device.

    def note(self, source: int) -> None:
        """Note that a source has another version, or may be had by others, or may not any more."""
        (is_given,) = self._database.execute(
            "SELECT count(*) FROM sources JOIN folders ON folders.id = folder "
            "JOIN versions ON versions.source = sources.id AND is_current "
            "WHERE sources.id = ? AND label <> 'private' AND origin = '' "
            "AND EXISTS (SELECT 1 FROM passages WHERE version = versions.id)",
            (source,),
        ).fetchone()
        if not is_given:
            self.note_gone(source)
            return
        known = self._database.execute("SELECT item FROM entries WHERE source = ?", (source,)).fetchone()
        self._database.execute(
            "INSERT OR REPLACE INTO entries (origin, item, seq, source, salt) VALUES ('', ?, ?, ?, ?)",
            (known[0] if known else secrets.token_bytes(ITEM), self._next(), source, secrets.token_bytes(SALT)),
        )

    def note_gone(self, source: int) -> None:
        """Note that a source is not to be had any more; nothing where it was not. For others' ones: it is not here."""
        self._database.execute(
            "UPDATE entries SET seq = ?, source = NULL, is_gone = 1, salt = x'', hash = x'', size = 0, "
            "signature = NULL WHERE source = ? AND origin = ''",
            (self._next(), source),
        )
        self._database.execute("UPDATE entries SET source = NULL, here = 0 WHERE source = ?", (source,))

    def note_missing(self) -> None:
        """Note the sources that have no entry, and may have one."""
        rows = self._database.execute(
            "SELECT sources.id FROM sources JOIN folders ON folders.id = folder WHERE label <> 'private' "
            "AND origin = '' AND NOT EXISTS (SELECT 1 FROM entries WHERE source = sources.id)"
        ).fetchall()
        for (source,) in rows:
            self.note(source)

    def sign(self, most: int, sign: Callable[[Entry], bytes]) -> int:
        """Have the first unsigned entries signed; returns how many were."""
        rows = self._database.execute(
            "SELECT item, seq, source, is_gone, salt FROM entries WHERE origin = '' AND signature IS NULL "
            "ORDER BY seq LIMIT ?",
            (most,),
        ).fetchall()
        for item, seq, source, is_gone, salt in rows:
            content = b"" if is_gone else self._content(source)
            digest = b"" if is_gone else hash_of(salt, content)
            entry = Entry(OWN, item, seq, bool(is_gone), digest, len(content), b"")
            self._database.execute(
                "UPDATE entries SET hash = ?, size = ?, signature = ? WHERE origin = '' AND item = ?",
                (digest, len(content), sign(entry), item),
            )
        return len(rows)

    def meet_own(self, entries: Sequence[Entry], after: int | None = None) -> None:
        """Go beyond entries of this device's own that others know, and it does not: it was restored from a backup.

        What it has is told anew; what it has not is gone.

        Parameters
        ----------
        after
            The number after which these are all entries that the other one knows, up to the last of them.
        """
        stale: set[bytes] = set()
        if entries and after is not None:
            rows = self._database.execute(
                "SELECT item, seq FROM entries WHERE origin = '' AND seq > ? AND seq <= ?", (after, entries[-1].seq)
            )
            stale = {item for item, _ in {*rows} - {(one.item, one.seq) for one in entries}}
        lost = []
        for one in entries:
            known = self._database.execute(
                "SELECT seq, signature FROM entries WHERE origin = '' AND item = ?", (one.item,)
            ).fetchone()
            if known is None:
                lost.append(one.item)
            elif known[0] < one.seq or (known[0] == one.seq and known[1] not in (None, one.signature)):
                stale.add(one.item)
        top = max((one.seq for one in entries), default=0)
        for item in stale:
            self._database.execute(
                "UPDATE entries SET seq = ?, signature = NULL WHERE origin = '' AND item = ?", (self._next(top), item)
            )
        for item in lost:
            self._database.execute(
                "INSERT INTO entries (origin, item, seq, is_gone) VALUES ('', ?, ?, 1)", (item, self._next(top))
            )

    def _next(self, top: int = 0) -> int:
        """Return the next number of this device: a time (µs), so that one restored from a backup takes none again.

        It is larger than `top`.
        """
        (last,) = self._database.execute("SELECT coalesce(max(seq), 0) FROM entries WHERE origin = ''").fetchone()
        return max(last + 1, top + 1, time.time_ns() // 1000)

    # What is on others.

    def adopt(self, entries: Sequence[Entry]) -> list[int]:
        """Know these entries, of others, where they are newer; returns the sources that are gone by them."""
        gone = []
        sizes = dict(self._database.execute("SELECT origin, count(*) FROM entries GROUP BY origin").fetchall())
        for one in entries:
            known = self._database.execute(
                "SELECT seq, source FROM entries WHERE origin = ? AND item = ?", (one.origin, one.item)
            ).fetchone()
            if known is not None and known[0] >= one.seq:
                continue
            sizes[one.origin] = sizes.get(one.origin, 0) + (known is None)
            if sizes[one.origin] > MOST_ENTRIES:
                raise Refused(f"{one.origin[:8]} has more than {MOST_ENTRIES:,} documents; no more can be known.")
            self._database.execute(
                "INSERT INTO entries (origin, item, seq, is_gone, hash, size, signature) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (origin, item) DO UPDATE SET seq = excluded.seq, is_gone = excluded.is_gone, "
                "hash = excluded.hash, size = excluded.size, signature = excluded.signature",
                (one.origin, one.item, one.seq, one.is_gone, one.hash, one.size, one.signature),
            )
            if one.is_gone and known is not None and known[1] is not None:
                gone.append(known[1])
        return gone

    def note_here(self, entry: Entry, source: int, salt: bytes) -> None:
        """Note that the version that an entry names is here."""
        self._database.execute(
            "UPDATE entries SET source = ?, here = seq, salt = ? WHERE origin = ? AND item = ?",
            (source, salt, entry.origin, entry.item),
        )

    def find(self, origin: str, item: bytes) -> tuple[Entry, int | None] | None:
        """Return the entry of an item, and its source, if that is here; None where there is none."""
        row = self._database.execute(
            f"{_WITH_SOURCE} FROM entries WHERE origin = ? AND item = ?", (origin, item)
        ).fetchone()
        return (_entry(row[:-1]), row[-1]) if row is not None else None

    def of_others(self) -> list[OthersEntry]:
        """Return the entries of what there is on other devices, the newest first, with what of it is here."""
        rows = self._database.execute(
            f"{_WITH_SOURCE}, here = seq FROM entries WHERE origin <> '' AND NOT is_gone ORDER BY seq DESC"
        ).fetchall()
        return [OthersEntry(_entry(row[:-2]), row[-2], bool(row[-1])) for row in rows]

    def drop(self, origin: str) -> list[int]:
        """Know nothing more of a device; returns the sources that are gone by this."""
        rows = self._database.execute(
            "SELECT source FROM entries WHERE origin = ? AND source IS NOT NULL", (origin,)
        ).fetchall()
        self._database.execute("DELETE FROM entries WHERE origin = ?", (origin,))
        return [source for (source,) in rows]

    # What is passed on.

    def heads(self) -> dict[str, int]:
        """Return up to which number the entries of each device are known; of this one, also unsigned ones."""
        return dict(self._database.execute("SELECT origin, max(seq) FROM entries GROUP BY origin").fetchall())

    def sums(self, origin: str) -> tuple[int, int] | None:
        """Return how many entries of a device there are, and the sum of their numbers, modulo a prime.

        None for those of this device while some are unsigned.
        """
        count, sum_, signed = self._database.execute(
            "SELECT count(*), coalesce(sum(seq % 2147483647), 0), count(signature) FROM entries WHERE origin = ?",
            (origin,),
        ).fetchone()
        return (count, sum_) if signed == count else None

    def since(self, origin: str, seq: int, most: int) -> list[Entry]:
        """Return the signed entries of a device after a number, in their order."""
        rows = self._database.execute(
            f"SELECT {_COLUMNS} FROM entries WHERE origin = ? AND seq > ? AND signature IS NOT NULL "  # noqa: S608
            "ORDER BY seq LIMIT ?",
            (origin, seq, most),
        ).fetchall()
        return [_entry(row) for row in rows]

    def content(self, origin: str, item: bytes, seq: int) -> tuple[bytes, bytes]:
        """Return the salt and the content of a version; raises `NotFound` where it is not here (any more)."""
        row = self._database.execute(
            "SELECT source, salt FROM entries WHERE origin = ? AND item = ? AND seq = ? AND source IS NOT NULL "
            "AND (origin = '' OR here = seq)",
            (origin, item, seq),
        ).fetchone()
        if row is None:
            raise NotFound("This version is not here (any more).")
        return row[1], self._content(row[0])

    def check(self) -> list[str]:
        """Compare the entries with the sources; returns what does not agree, in sentences."""
        (lacking,) = self._database.execute(
            "SELECT count(*) FROM sources JOIN folders ON folders.id = folder "
            "JOIN versions ON source = sources.id AND is_current "
            "WHERE (label <> 'private' AND EXISTS (SELECT 1 FROM passages WHERE version = versions.id)) "
            "<> EXISTS (SELECT 1 FROM entries WHERE entries.source = sources.id AND NOT is_gone)"
        ).fetchone()
        (astray,) = self._database.execute(
            "SELECT count(*) FROM entries WHERE origin = '' AND (source IS NULL) <> is_gone OR here > seq "
            "OR (here > 0) <> (origin <> '' AND source IS NOT NULL)"
        ).fetchone()
        found = [f"{lacking} documents are not told to other devices as they should be."] if lacking else []
        return found + ([f"{astray} entries for other devices belong to nothing."] if astray else [])

    def _content(self, source: int) -> bytes:
        """Return what a source says, in the same bytes on every device."""
        folder, origin, path, dated, size, digest, parser, version = self._database.execute(
            "SELECT folders.path, origin, sources.path, dated, size, hash, parser, versions.id FROM sources "
            "JOIN folders ON folders.id = folder JOIN versions ON source = sources.id AND is_current "
            "WHERE sources.id = ?",
            (source,),
        ).fetchone()
        relations: dict[int, list[Relation]] = {}
        for passage, kind, target in self._database.execute(
            "SELECT passage, kind, target FROM relations WHERE passage IN "
            "(SELECT id FROM passages WHERE version = ?) ORDER BY rowid",
            (version,),
        ):
            relations.setdefault(passage, []).append(Relation(kind, target))
        rows = self._database.execute(
            "SELECT id, text, kind, name, first_line, last_line, cell, ran FROM passages WHERE version = ? ORDER BY id",
            (version,),
        )
        passages = tuple(
            Passage(text, kind, name, first, last, cell, ran, tuple(relations.get(number, ())))
            for number, text, kind, name, first, last, cell, ran in rows
        )
        whole = folder[len(origin) + 1 :] if origin else folder
        return msgspec.msgpack.encode(SourceContent(whole, path, dated, size, digest, parser, passages))


def hash_of(salt: bytes, content: bytes) -> bytes:
    """Return the hash of a content, which tells nothing to whoever has not got the salt."""
    return hashlib.blake2b(content, key=salt, digest_size=HASH).digest()


def _entry(row: Sequence[object]) -> Entry:
    origin, item, seq, is_gone, digest, size, signature = row
    return Entry(origin, item, seq, bool(is_gone), digest, size, signature or b"")  # type: ignore[arg-type]
