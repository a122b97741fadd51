"""The storage of what the owner's devices know. SQLite is the truth: what it does not have, is not there.

A version of a source is staged with its passages, which nobody finds yet. One transaction then makes it current, adds
its words to the index, takes the version before it away, and notes that other devices may have it. Whatever ends the
process, there is the one or the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from typing import TYPE_CHECKING

from ainet.sqlite import WAITS
from ainet.storage.database import Database
from ainet.storage.indexes import VectorIndexes
from ainet.storage.journal import Journal
from ainet.storage.replicas import Replicas
from ainet.storage.seen import SeenPart
from ainet.storage.versions import UNSCRUBBED, Versions
from ainet.storage.view import StorageView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ainet.storage.records import Fingerprint, Folder, Label, Passage, Unembedded, VectorIndex

DATABASE = "context.sqlite"
#: Milliseconds for which others' readers are waited for when the disk is to be free of what was removed.
SCRUB_WAITS = 100


class HybridStorage(StorageView):
    """Sources, their passages, and the index of their words. Any thread may call it; each call waits for the disk.

    Parameters
    ----------
    folder
        Where it lies; made if it is missing.

    Raises
    ------
    AinetError
        The database is damaged, or was written by a newer ainet.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._database = database = Database(folder / DATABASE)
        super().__init__(database)
        self._versions, self._journal = Versions(database.writer), Journal(database.writer)
        self._words, self._indexes = self._versions.words, self._versions.indexes
        self._seen = SeenPart(database.path)
        #: What other devices have, and may have.
        self.replicas = Replicas(database, self._versions, self._journal)
        with database.transaction() as writer:
            self._versions.drop_staged()
            self._journal.note_missing()
            writer.execute("INSERT OR IGNORE INTO settings VALUES ('key', ?)", (secrets.token_bytes(32),))
            (self._key,) = writer.execute("SELECT value FROM settings WHERE name = 'key'").fetchone()

    # What is written.

    def add_folder(
        self, path: str, label: Label = "swarm", audience: Sequence[str] = (), *, origin: str = ""
    ) -> Folder:
        """Note a folder of the owner's, or that its label is another one.

        Parameters
        ----------
        audience
            The contacts (node ids) that it is shared with.
        origin
            What is no folder of this device's has another one, with which its path begins.
        """
        with self._database.transaction() as database:
            database.execute(
                "INSERT INTO folders (path, label, origin) VALUES (?, ?, ?) "
                "ON CONFLICT (path) DO UPDATE SET label = excluded.label",
                (path, label, origin),
            )
            (folder,) = database.execute("SELECT id FROM folders WHERE path = ?", (path,)).fetchone()
            database.execute("DELETE FROM audiences WHERE folder = ?", (folder,))
            database.executemany("INSERT INTO audiences VALUES (?, ?)", [(folder, node) for node in audience])
            for (source,) in database.execute(  # those whose devices change by this
                "SELECT sources.id FROM sources LEFT JOIN entries ON entries.source = sources.id "
                "WHERE folder = ? AND (item IS NULL) = (? <> 'private')",
                (folder, label),
            ).fetchall():
                self._journal.note(source)
        return self.folder(path, origin)

    def audience(self, folder: int) -> list[str]:
        """Return the contacts (node ids) that a folder is shared with."""
        return [node for (node,) in self._reader.ask("SELECT node FROM audiences WHERE folder = ?", (folder,))]

    def unshare(self, node: str) -> None:
        """Share nothing with a contact any more."""
        with self._database.transaction() as database:
            database.execute("DELETE FROM audiences WHERE node = ?", (node,))

    def remove_folder(self, folder: int) -> None:
        """Forget a folder with all its sources."""
        with self._database.transaction() as database:
            for (source,) in database.execute("SELECT id FROM sources WHERE folder = ?", (folder,)).fetchall():
                self._remove(source)
            database.execute("DELETE FROM forgotten WHERE folder = ?", (folder,))
            database.execute("DELETE FROM audiences WHERE folder = ?", (folder,))
            database.execute("DELETE FROM folders WHERE id = ?", (folder,))

    def forget(self, sources: Sequence[int]) -> None:
        """Forget sources, and note (as keyed digests of their paths) that they are not to be known again."""
        with self._database.transaction() as database:
            for source in sources:
                row = database.execute("SELECT folder, path FROM sources WHERE id = ?", (source,)).fetchone()
                if row is not None:
                    self._remove(source)
                    database.execute("INSERT OR IGNORE INTO forgotten VALUES (?, ?)", (row[0], self._digest(row[1])))

    def know_again(self, folder: int) -> None:
        """Let everything in a folder be known again."""
        with self._database.transaction() as database:
            database.execute("DELETE FROM forgotten WHERE folder = ?", (folder,))

    def forgotten(self, folder: int) -> Callable[[str], bool]:
        """Return what tells whether a path in a folder is not to be known."""
        digests = {
            digest for (digest,) in self._database.ask("SELECT digest FROM forgotten WHERE folder = ?", (folder,))
        }
        return lambda path: bool(digests) and self._digest(path) in digests

    def setting(self, name: str) -> bytes | None:
        """Return what was noted under a name."""
        rows = self._database.ask("SELECT value FROM settings WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def note_setting(self, name: str, value: bytes = b"") -> None:
        """Note something."""
        with self._database.transaction() as database:
            database.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    def drop_setting(self, name: str) -> None:
        """Forget what was noted under a name."""
        with self._database.transaction() as database:
            database.execute("DELETE FROM settings WHERE name = ?", (name,))

    def stage(
        self,
        folder: int,
        path: str,
        fingerprint: Fingerprint,
        *,
        parser: str,
        passages: Sequence[Passage],
        problem: str = "",
    ) -> int:
        """Write a version of a source, which nobody finds before it is committed; returns its number."""
        with self._database.transaction():
            return self._versions.stage(folder, path, fingerprint, parser=parser, passages=passages, problem=problem)

    def commit(self, version: int) -> None:
        """Make a staged version the current one, in place of the one before it.

        Raises
        ------
        NotFound
            It is not staged, or not any more.
        """
        with self._database.transaction():
            self._journal.note(self._versions.commit(version))

    def drop(self, version: int) -> None:
        """Forget a version that is staged only."""
        with self._database.transaction():
            self._versions.drop_staged(version)

    def touch(self, source: int, size: int, modified: int) -> None:
        """Note that a file has another time, or size, but says what it said."""
        with self._database.transaction() as database:
            database.execute(
                "UPDATE versions SET size = ?, modified = ? WHERE source = ? AND is_current", (size, modified, source)
            )

    def move(self, source: int, path: str, modified: int) -> None:
        """Note that a source has another path in its folder, with the same passages; raises `NotFound`."""
        with self._database.transaction():
            self._versions.move(source, path, modified)
            self._journal.note(source)

    def remove(self, source: int) -> None:
        """Forget a source: it is in no answer from now on."""
        with self._database.transaction():
            self._remove(source)

    def scrub(self) -> bool:
        """Leave nothing on the disk of what was removed; whether that was possible: a reader may be in the way."""
        self._seen.close()
        with self._database.reading(), self._database.brief.reading(), self._database.writing() as database:
            self._words.optimise()
            database.execute(f"PRAGMA busy_timeout = {SCRUB_WAITS}")  # questions wait meanwhile
            try:
                (busy, _, _) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                database.execute(f"PRAGMA busy_timeout = {WAITS}")
            if not busy:
                database.execute("DELETE FROM settings WHERE name = ?", (UNSCRUBBED,))
        return not busy

    def is_scrubbed(self) -> bool:
        """Whether nothing of what was removed is on the disk."""
        return self.setting(UNSCRUBBED) is None

    # Vectors, which lie elsewhere.

    def indexes(self) -> list[VectorIndex]:
        """Return the models that passages have vectors of, or shall have, the oldest first."""
        with self._database.brief.reading() as database:
            return VectorIndexes(database).all()

    def open_index(self, model: str, name: str, dimensions: int) -> VectorIndex:
        """Return the index of a model, by its hash; where it is new, no passage has a vector in it yet."""
        with self._database.transaction():
            self._indexes.open(model, name, dimensions)
            return next(index for index in self._indexes.all() if index.model == model)

    def needs_vectors(self) -> bool:
        """Whether there are passages without vectors."""
        ((needed,),) = self._database.brief.ask(
            "SELECT EXISTS (SELECT 1 FROM unembedded) "
            "OR NOT EXISTS (SELECT 1 FROM indexes) AND EXISTS (SELECT 1 FROM current_passages)"
        )
        return bool(needed)

    def is_owed_urgently(self) -> bool:
        """Whether vectors are on the disk that must not stay there."""
        ((owed,),) = self._database.brief.ask("SELECT EXISTS (SELECT 1 FROM indexes WHERE is_urgent AND owed > 0)")
        return bool(owed)

    def next_unembedded(self, index: int, n: int) -> list[Unembedded]:
        """Return passages without vectors, the newest first, and note that they get some."""
        with self._database.transaction():
            found = self._indexes.next(index, n)
            self._indexes.trying(index, [one.id for one in found])
        return found

    def note_embedded(self, index: int, passages: Sequence[int]) -> None:
        """Note that the vectors of these passages are written."""
        with self._database.transaction():
            self._indexes.embedded(index, passages)

    def embedded(self, index: int) -> tuple[VectorIndex, list[int]]:
        """Return an index, and the current passages that have vectors in it, at one moment."""
        with self._database.transaction():
            found = next(one for one in self._indexes.all() if one.id == index)
            return found, self._indexes.passages(index)

    def note_rewritten(self, index: int) -> None:
        """Note that the index's next table takes the place of its table, which is still there."""
        with self._database.transaction():
            self._indexes.rewritten(index)

    def note_paid(self, index: VectorIndex) -> None:
        """Note that no table has the vectors that were owed when the index was read."""
        with self._database.transaction():
            self._indexes.paid(index)

    def reset_index(self, index: int) -> None:
        """Have all vectors of an index made anew."""
        with self._database.transaction():
            self._indexes.reset(index)

    def drop_index(self, index: int) -> None:
        """Forget a model, whose vectors are not used any more."""
        with self._database.transaction():
            self._indexes.drop(index)

    # What others may ask.

    def for_member(self) -> list[int] | None:
        """Return the folders that a device of the owner's may see; None for all."""
        rows = self._reader.ask("SELECT id, label FROM folders")
        seen = [number for number, label in rows if label != "private"]
        return seen if len(seen) < len(rows) else None

    def for_contact(self, node: str) -> list[int]:
        """Return the folders that were shared with a contact (node id)."""
        rows = self._reader.ask(
            "SELECT folders.id FROM folders JOIN audiences ON folder = folders.id "
            "WHERE node = ? AND label = 'shared' AND origin = '' ORDER BY folders.id",
            (node,),
        )
        return [number for (number,) in rows]

    @contextlib.contextmanager
    def seen(self, folders: Sequence[int] | None) -> Iterator[StorageView]:
        """Have these folders only, as they are at one moment; None for all. What is not in them has no influence."""
        if folders is None:
            yield self
        else:
            with self._seen.of(folders) as view:
                yield view

    # What is compared.

    def check(self) -> list[str]:
        """Compare everything with everything; returns what does not agree, in sentences."""
        with self._database.writing() as database:
            found = [f"The database: {line}." for (line,) in database.execute("PRAGMA integrity_check") if line != "ok"]
            broken = database.execute("PRAGMA foreign_key_check").fetchall()
            if broken:
                found.append(f"{len(broken)} rows belong to something that is gone.")
            if problem := self._words.check():
                found.append(f"The index of words does not agree with the passages ({problem}).")
            found += self._journal.check()
        return found

    def rebuild(self) -> None:
        """Make the index of words anew."""
        with self._database.transaction():
            self._words.rebuild()

    def close(self) -> None:
        """Close the files; nothing else may be called afterwards."""
        self._seen.close()
        self._words.close()
        super().close()

    def _digest(self, path: str) -> bytes:
        return hashlib.blake2b(path.encode(errors="surrogateescape"), key=self._key, digest_size=16).digest()

    def _remove(self, source: int) -> None:
        """Take a source away, within a transaction."""
        self._journal.note_gone(source)
        self._versions.remove(source)
