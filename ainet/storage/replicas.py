"""What is known of files on the owner's other devices, and what these may know of the files here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ainet.errors import Refused
from ainet.storage.indexes import LISTED
from ainet.storage.journal import OWN, Journal, hash_of
from ainet.storage.records import Fingerprint, Kept, PassagePlace, SourceContent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ainet.storage.database import Database
    from ainet.storage.records import Entry
    from ainet.storage.versions import Versions

#: Entries that are signed in one transaction.
SIGNED_AT_ONCE = 200


class Replicas:
    """Entries of all devices, and the sources of other ones. Any thread may call it; each call waits for the disk.

    Parameters
    ----------
    database, versions, journal
        Of the storage.
    """

    def __init__(self, database: Database, versions: Versions, journal: Journal) -> None:
        self._database, self._versions, self._journal = database, versions, journal

    def sign(self, sign: Callable[[Entry], bytes]) -> int:
        """Sign what has changed here; returns up to which number this device's entries are signed."""
        signed = SIGNED_AT_ONCE
        while signed == SIGNED_AT_ONCE:
            with self._database.transaction():
                signed = self._journal.sign(SIGNED_AT_ONCE, sign)
        return self.heads().get(OWN, 0)

    def heads(self) -> dict[str, int]:
        """Return up to which number the entries of each device are known."""
        with self._database.reading() as database:
            return Journal(database).heads()

    def since(self, origin: str, seq: int, most: int) -> list[Entry]:
        """Return the signed entries of a device after a number, in their order."""
        with self._database.reading() as database:
            return Journal(database).since(origin, seq, most)

    def sums(self, origin: str) -> tuple[int, int] | None:
        """Return what tells whether two devices know the same entries of a third; see `Journal.sums`."""
        with self._database.reading() as database:
            return Journal(database).sums(origin)

    def kept_bytes(self) -> dict[str, int]:
        """Return the bytes of the documents of other devices that are here, by device (node id)."""
        return dict(
            self._database.ask("SELECT origin, sum(size) FROM entries WHERE here AND origin <> ? GROUP BY 1", (OWN,))
        )

    def meet_own(self, entries: Sequence[Entry], after: int) -> None:
        """Go beyond entries of this device that another one knows; see `Journal.meet_own`."""
        with self._database.transaction():
            self._journal.meet_own(entries, after)

    def read(self, origin: str, item: bytes, seq: int) -> tuple[bytes, bytes]:
        """Return the salt and the content of a version; raises `NotFound` where it is not here (any more)."""
        with self._database.reading() as database:
            return Journal(database).content(origin, item, seq)

    def adopt(self, entries: Sequence[Entry]) -> bool:
        """Know entries, whose signatures are right; returns whether something here is gone by them."""
        with self._database.transaction():
            self._journal.meet_own([one for one in entries if one.origin == OWN])
            gone = self._journal.adopt([one for one in entries if one.origin != OWN])
            self._take_away(gone)
        return bool(gone)

    def put(self, entry: Entry, salt: bytes, content: bytes) -> bool:
        """Know what a version says; whether it still holds.

        Raises
        ------
        Refused
            It is not what the entry names, or not readable.
        """
        if len(content) != entry.size or hash_of(salt, content) != entry.hash:
            raise Refused("A document that a member sent is not the one that its owner signed.")
        try:
            said = msgspec.msgpack.decode(content, type=SourceContent)
        except (ValueError, RecursionError) as exc:
            raise Refused(f"A document that a member sent cannot be read ({exc}).") from exc
        with self._database.transaction() as database:
            found = self._journal.find(entry.origin, entry.item)
            if found is None or (found[0].seq, found[0].is_gone) != (entry.seq, False):
                return False
            before = found[1]
            path = f"{entry.origin}:{said.folder}"
            database.execute(
                "INSERT OR IGNORE INTO folders (path, label, origin) VALUES (?, 'swarm', ?)", (path, entry.origin)
            )
            (folder,) = database.execute("SELECT id FROM folders WHERE path = ?", (path,)).fetchone()
            version = self._versions.stage(
                folder,
                said.path,
                Fingerprint(said.size, 0, said.hash),
                parser=said.parser,
                passages=said.passages,
                dated=said.dated,
            )
            source = self._versions.commit(version)
            # Another item may have had this path until now, and this item another path.
            database.execute("UPDATE entries SET source = NULL, here = 0 WHERE source = ?", (source,))
            self._journal.note_here(entry, source, salt)
            if before is not None and before != source:
                self._take_away([before])
        return True

    def places(self, passages: Sequence[int]) -> dict[int, PassagePlace]:
        """Return where other devices find these passages, those that these may know."""
        rows = self._database.ask(
            "SELECT passages.id, origin, item, seq, "  # noqa: S608 - a name of this package
            "passages.id - (SELECT min(id) FROM passages AS first WHERE first.version = versions.id) "
            "FROM passages JOIN versions ON versions.id = version AND is_current "
            "JOIN entries ON entries.source = versions.source AND (origin = '' OR here = seq) "
            f"WHERE signature IS NOT NULL AND passages.id IN {LISTED}",
            (str(list(passages)),),
        )
        return {number: PassagePlace(*place) for number, *place in rows}

    def passages_at(self, places: Sequence[PassagePlace], index: int) -> list[int | None]:
        """Return the passages at these places which have vectors in an index; None for one that has not."""
        with self._database.reading() as database:
            rows = [
                database.execute(
                    "SELECT passages.id FROM entries JOIN versions ON versions.source = entries.source AND is_current "
                    "JOIN passages ON version = versions.id "
                    "WHERE origin = ? AND item = ? AND seq = ? AND (origin = '' OR here = seq) "
                    "AND passages.id = (SELECT min(id) FROM passages AS first WHERE first.version = versions.id) + ? "
                    "AND NOT EXISTS (SELECT 1 FROM unembedded WHERE in_index = ? AND passage = passages.id)",
                    (one.origin, one.item, one.seq, one.position, index),
                ).fetchone()
                for one in places
            ]
        return [row[0] if row else None for row in rows]

    def plan(self, budget: int) -> tuple[list[Entry], list[int]]:
        """Return the entries whose versions are to be fetched, and the sources that are to make room for them.

        Of each device, newer versions come before older ones; no device gets more than others that have as much.

        Parameters
        ----------
        budget
            Bytes that the contents of all other devices' sources may have here.
        """
        with self._database.reading() as database:
            entries = Journal(database).of_others()
        sizes: dict[str, int] = {}
        ranked = []
        for one in entries:
            sizes[one.entry.origin] = newer = sizes.get(one.entry.origin, 0) + one.entry.size
            ranked.append((newer, one))
        left, wanted, given_up = budget, [], []
        for _, one in sorted(ranked, key=lambda pair: pair[0]):
            left -= one.entry.size
            if left >= 0 and not one.is_here:
                wanted.append(one.entry)
            elif left < 0 and one.source is not None:
                given_up.append(one.source)
        return wanted, given_up

    def give_up(self, sources: Sequence[int]) -> None:
        """Keep these sources of other devices no longer."""
        with self._database.transaction():
            self._take_away(sources)

    def kept(self) -> dict[str, Kept]:
        """Return how much of each other device is here, by its node id."""
        rows = self._database.ask(
            "SELECT origin, count(*), sum(here = seq), sum(source IS NOT NULL), sum(CASE WHEN source IS NULL THEN 0 "
            "ELSE (SELECT count(*) FROM current_passages JOIN versions ON versions.id = version "
            "WHERE versions.source = entries.source) END) "
            "FROM entries WHERE origin <> '' AND NOT is_gone GROUP BY origin"
        )
        return {origin: Kept(all_, whole, found, passages) for origin, all_, whole, found, passages in rows}

    def keep_only(self, origins: Collection[str]) -> bool:
        """Forget what is known of all other devices; whether there was something."""
        dropped = [origin for origin in self.heads() if origin != OWN and origin not in origins]
        if dropped:
            with self._database.transaction() as database:
                for origin in dropped:
                    self._take_away(self._journal.drop(origin))
                    database.execute("DELETE FROM folders WHERE origin = ?", (origin,))
        return bool(dropped)

    def withdraw(self) -> None:
        """Let no other device have anything from now on: all folders are private."""
        with self._database.transaction() as database:
            database.execute("UPDATE folders SET label = 'private' WHERE origin = ''")
            database.execute("DELETE FROM audiences")
            for (source,) in database.execute(
                "SELECT source FROM entries WHERE origin = '' AND source IS NOT NULL"
            ).fetchall():
                self._journal.note_gone(source)

    def _take_away(self, sources: Sequence[int]) -> None:
        for source in sources:
            self._journal.note_gone(source)
            self._versions.remove(source)
