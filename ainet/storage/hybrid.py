"""The storage of what the owner's devices know. SQLite is the truth: what it does not have, is not there.

A version of a source is staged with its passages, which nobody finds yet. One transaction then makes it current, adds
its words to the index, and takes the version before it away. Whatever ends the process, there is the one or the other.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

from ainet.errors import NotFound
from ainet.storage.database import Database
from ainet.storage.full_text import FullText
from ainet.storage.identifiers import split_identifiers
from ainet.storage.indexes import VectorIndexes
from ainet.storage.records import Fingerprint, Folder, Label, Passage, Source, StoredPassage
from ainet.storage.relations import Relations, symbol_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ainet.storage.records import Found, Unembedded, VectorIndex

DATABASE = "context.sqlite"
_SOURCE = (
    "SELECT sources.id, folder, path, size, modified, hash, parser, problem, "
    "(SELECT count(*) FROM passages WHERE version = versions.id) "
    "FROM sources JOIN versions ON versions.source = sources.id AND is_current"
)


class HybridStorage:
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
        self._words, self._found = FullText(database.writer), FullText(database.reader)
        #: What passages have to do with each other.
        self.relations = Relations(database)
        self._indexes = VectorIndexes(database.writer)
        with database.transaction() as writer:
            self._drop_staged()
            writer.execute("INSERT OR IGNORE INTO settings VALUES ('key', ?)", (secrets.token_bytes(32),))
            (self._key,) = writer.execute("SELECT value FROM settings WHERE name = 'key'").fetchone()

    # What is written.

    def add_folder(self, path: str, label: Label = "swarm") -> Folder:
        """Note a folder of the owner's, or that its label is another one."""
        with self._database.transaction() as database:
            database.execute(
                "INSERT INTO folders (path, label) VALUES (?, ?) "
                "ON CONFLICT (path) DO UPDATE SET label = excluded.label",
                (path, label),
            )
        return self.folder(path)

    def remove_folder(self, folder: int) -> None:
        """Forget a folder with all its sources."""
        with self._database.transaction() as database:
            for (source,) in database.execute("SELECT id FROM sources WHERE folder = ?", (folder,)).fetchall():
                self._remove(source)
            database.execute("DELETE FROM forgotten WHERE folder = ?", (folder,))
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
        with self._database.transaction() as database:
            database.execute("INSERT OR IGNORE INTO sources (folder, path) VALUES (?, ?)", (folder, path))
            (source,) = database.execute(
                "SELECT id FROM sources WHERE folder = ? AND path = ?", (folder, path)
            ).fetchone()
            version = database.execute(
                "INSERT INTO versions (source, size, modified, hash, parser, problem) VALUES (?, ?, ?, ?, ?, ?)",
                (source, fingerprint.size, fingerprint.modified, fingerprint.hash, parser, problem),
            ).lastrowid
            database.executemany(
                "INSERT INTO passages (version, kind, name, first_line, last_line, cell, ran, symbol, text, "
                "identifiers, header) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        *(version, one.kind, one.name, one.first_line, one.last_line, one.cell, one.ran),
                        *(symbol_of(one), one.text, split_identifiers(one.text), header(path, one.name)),
                    )
                    for one in passages
                ],
            )
            assert version is not None  # noqa: S101 - a row was inserted
            self.relations.add(version, passages)
        return version

    def commit(self, version: int) -> None:
        """Make a staged version the current one, in place of the one before it.

        Raises
        ------
        NotFound
            It is not staged, or not any more.
        """
        with self._database.transaction() as database:
            row = database.execute("SELECT source FROM versions WHERE id = ? AND NOT is_current", (version,)).fetchone()
            if row is None:
                raise NotFound(f"There is no staged version {version}.")
            self._retire(row[0], urgently=False)
            database.execute("UPDATE versions SET is_current = 1 WHERE id = ?", (version,))
            self._words.add(version)
            self._indexes.add(version)

    def drop(self, version: int) -> None:
        """Forget a version that is staged only."""
        with self._database.transaction():
            self._drop_staged(version)

    def touch(self, source: int, size: int, modified: int) -> None:
        """Note that a file has another time, or size, but says what it said."""
        with self._database.transaction() as database:
            database.execute(
                "UPDATE versions SET size = ?, modified = ? WHERE source = ? AND is_current", (size, modified, source)
            )

    def move(self, source: int, path: str, modified: int) -> None:
        """Note that a source has another path in its folder, with the same passages; raises `NotFound`."""
        with self._database.transaction() as database:
            row = database.execute("SELECT id FROM versions WHERE source = ? AND is_current", (source,)).fetchone()
            if row is None:
                raise NotFound(f"There is no source {source} any more.")
            version = row[0]
            self._words.remove(version)
            database.execute("UPDATE sources SET path = ? WHERE id = ?", (path, source))
            database.execute("UPDATE versions SET modified = ? WHERE id = ?", (modified, version))
            names = database.execute("SELECT id, name FROM passages WHERE version = ?", (version,)).fetchall()
            database.executemany(
                "UPDATE passages SET header = ? WHERE id = ?", [(header(path, name), number) for number, name in names]
            )
            self._words.add(version)

    def remove(self, source: int) -> None:
        """Forget a source: it is in no answer from now on."""
        with self._database.transaction():
            self._remove(source)

    def scrub(self) -> bool:
        """Leave nothing on the disk of what was removed; whether that was possible: a reader may be in the way."""
        with self._database.reading(), self._database.writing() as database:
            self._words.optimise()
            (busy, _, _) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    # Vectors, which lie elsewhere.

    def indexes(self) -> list[VectorIndex]:
        """Return the models that passages have vectors of, or shall have, the oldest first."""
        with self._database.reading() as database:
            return VectorIndexes(database).all()

    def count(self) -> int:
        """Return how many passages there are."""
        ((passages,),) = self._database.ask("SELECT count(*) FROM words_docsize")
        return int(passages)

    def open_index(self, model: str, name: str, dimensions: int) -> VectorIndex:
        """Return the index of a model, by its hash; where it is new, no passage has a vector in it yet."""
        with self._database.transaction():
            self._indexes.open(model, name, dimensions)
            return next(index for index in self._indexes.all() if index.model == model)

    def needs_vectors(self) -> bool:
        """Whether there are passages without vectors."""
        ((needed,),) = self._database.ask(
            "SELECT EXISTS (SELECT 1 FROM unembedded) "
            "OR NOT EXISTS (SELECT 1 FROM indexes) AND EXISTS (SELECT 1 FROM current_passages)"
        )
        return bool(needed)

    def is_owed_urgently(self) -> bool:
        """Whether vectors are on the disk that must not stay there."""
        ((owed,),) = self._database.ask("SELECT EXISTS (SELECT 1 FROM indexes WHERE is_urgent AND owed > 0)")
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

    # What is asked.

    def folders(self) -> list[Folder]:
        """Return the folders that were added."""
        rows = self._database.ask("SELECT id, path, label FROM folders ORDER BY path")
        return [Folder(*row) for row in rows]

    def folder(self, path: str) -> Folder:
        """Return the folder that was added under this path; raises `NotFound`."""
        for folder in self.folders():
            if folder.path == path:
                return folder
        raise NotFound(f"{path} was not added. `ainet context list` shows what was.")

    def sources(self, folder: int) -> dict[str, Source]:
        """Return the sources of a folder by their paths."""
        rows = self._database.ask(f"{_SOURCE} WHERE folder = ?", (folder,))
        return {
            path: Source(number, of, path, Fingerprint(size, modified, digest), parser, passages, problem)
            for number, of, path, size, modified, digest, parser, problem, passages in rows
        }

    def passages(self, numbers: Sequence[int]) -> list[StoredPassage]:
        """Return the passages with these numbers, in this order, as far as they are current."""
        rows = self._database.ask(
            "SELECT current_passages.id, sources.id, folders.path, sources.path, "
            "text, kind, name, first_line, last_line, cell, ran "
            "FROM current_passages JOIN versions ON versions.id = version JOIN sources ON sources.id = source "
            "JOIN folders ON folders.id = folder WHERE current_passages.id IN (SELECT value FROM json_each(?))",
            (str(list(numbers)),),
        )
        found = {
            number: StoredPassage(number, source, folder, path, Passage(*passage))
            for number, source, folder, path, *passage in rows
        }
        return [found[number] for number in numbers if number in found]

    def search(
        self,
        question: str,
        n: int = 10,
        *,
        within: Sequence[int] | None = None,
        below: str | None = None,
        kind: str | None = None,
    ) -> list[Found]:
        """Return the `n` passages whose words fit a question best; see `FullText.search`."""
        with self._database.reading():
            return self._found.search(question, n, within=within, below=below, kind=kind)

    def coverage(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return how much of what a question says is in each text; see `FullText.coverage`."""
        with self._database.reading():
            return self._found.coverage(question, texts)

    def weights(self, terms: Sequence[str]) -> dict[str, float]:
        """Return how much each term says: its inverse document frequency."""
        with self._database.reading():
            return self._found.weights(terms)

    def among(self, passages: Sequence[int], *, below: str | None = None, kind: str | None = None) -> list[int]:
        """Return those of the passages that are in a folder or file, and of a kind."""
        rows = self._database.ask(
            "SELECT current_passages.id FROM current_passages JOIN versions ON versions.id = version "
            "JOIN sources ON sources.id = source JOIN folders ON folders.id = folder "
            "WHERE current_passages.id IN (SELECT value FROM json_each(?)) "
            "AND (? IS NULL OR substr(folders.path || '/' || sources.path || '/', 1, length(?) + 1) = ? || '/') "
            "AND (? IS NULL OR current_passages.kind = ?)",
            (str(list(passages)), below, below, below, kind, kind),
        )
        return [number for (number,) in rows]

    def all_among(self, *, below: str | None, kind: str | None, most: int) -> list[int]:
        """Return the passages in a folder or file, and of a kind; at most this number."""
        rows = self._database.ask(
            "SELECT passages.id FROM folders JOIN sources ON folder = folders.id "
            "JOIN versions ON source = sources.id AND is_current JOIN passages ON version = versions.id "
            "WHERE (? IS NULL OR substr(folders.path || '/' || sources.path || '/', 1, length(?) + 1) = ? || '/') "
            "AND (? IS NULL OR passages.kind = ?) LIMIT ?",
            (below, below, below, kind, kind, most),
        )
        return [number for (number,) in rows]

    def saying(self, text: str) -> dict[int, str]:
        """Return the sources that have these words, in this order, with their whole paths."""
        rows = self._database.ask(
            "SELECT DISTINCT sources.id, folders.path || '/' || sources.path FROM words "
            "JOIN passages ON passages.id = words.rowid JOIN versions ON versions.id = version "
            "JOIN sources ON sources.id = source JOIN folders ON folders.id = folder WHERE words MATCH ?",
            ('"' + text.replace('"', '""') + '"',),
        )
        return {number: path.rstrip("/") for number, path in rows}

    def check(self) -> list[str]:
        """Compare everything with everything; returns what does not agree, in sentences."""
        with self._database.writing() as database:
            found = [f"The database: {line}." for (line,) in database.execute("PRAGMA integrity_check") if line != "ok"]
            broken = database.execute("PRAGMA foreign_key_check").fetchall()
            if broken:
                found.append(f"{len(broken)} rows belong to something that is gone.")
            if problem := self._words.check():
                found.append(f"The index of words does not agree with the passages ({problem}).")
        return found

    def rebuild(self) -> None:
        """Make the index of words anew."""
        with self._database.transaction():
            self._words.rebuild()

    def close(self) -> None:
        """Close the files; nothing else may be called afterwards."""
        self._words.close()
        self._found.close()
        self._database.close()

    def _digest(self, path: str) -> bytes:
        return hashlib.blake2b(path.encode(errors="surrogateescape"), key=self._key, digest_size=16).digest()

    # Within a transaction.

    def _retire(self, source: int, *, urgently: bool) -> None:
        """Forget the current version of a source, if there is one."""
        row = self._database.writer.execute(
            "SELECT id FROM versions WHERE source = ? AND is_current", (source,)
        ).fetchone()
        if row is not None:
            self._words.remove(row[0])
            self._indexes.remove(row[0], urgently=urgently)
            self._delete(row[0])

    def _remove(self, source: int) -> None:
        self._retire(source, urgently=True)
        for (version,) in self._database.writer.execute(
            "SELECT id FROM versions WHERE source = ?", (source,)
        ).fetchall():
            self._delete(version)
        self._database.writer.execute("DELETE FROM sources WHERE id = ?", (source,))

    def _delete(self, version: int) -> None:
        self.relations.remove(version)
        self._database.writer.execute("DELETE FROM passages WHERE version = ?", (version,))
        self._database.writer.execute("DELETE FROM versions WHERE id = ?", (version,))

    def _drop_staged(self, version: int | None = None) -> None:
        staged = self._database.writer.execute(
            "SELECT id FROM versions WHERE NOT is_current AND (? IS NULL OR id = ?)", (version, version)
        ).fetchall()
        for (number,) in staged:
            self._delete(number)
        self._database.writer.execute("DELETE FROM sources WHERE id NOT IN (SELECT source FROM versions)")


def header(path: str, name: str) -> str:
    """Return what is indexed besides a passage: its path and its qualified name, and the words of both."""
    both = f"{path} {name}"
    return f"{both} {split_identifiers(both)}".rstrip()
