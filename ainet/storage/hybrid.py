"""The storage of what the owner's devices know. SQLite is the truth: what it does not have, is not there.

A version of a source is staged with its passages, which nobody finds yet. One transaction then makes it current, adds
its words to the index, and takes the version before it away. Whatever ends the process, there is the one or the other.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

from ainet.errors import AinetError, NotEnough, NotFound
from ainet.sqlite import open_database
from ainet.storage.full_text import FullText
from ainet.storage.identifiers import split_identifiers
from ainet.storage.records import Fingerprint, Folder, Label, Passage, Source, StoredPassage
from ainet.storage.schema import SCHEMA, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ainet.storage.records import Found

DATABASE = "context.sqlite"
ADVICE = "Delete it, and `ainet context add` the folders again."
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
        self._path = folder / DATABASE
        self._writer = open_database(self._path, SCHEMA, VERSION, advice=ADVICE)
        self._reader = open_database(self._path, SCHEMA, VERSION, advice=ADVICE)
        self._reader.execute("PRAGMA query_only = ON")
        self._writing, self._reading = threading.RLock(), threading.Lock()
        self._words, self._found = FullText(self._writer), FullText(self._reader)
        with self._transaction():
            self._drop_staged()

    # What is written.

    def add_folder(self, path: str, label: Label = "swarm") -> Folder:
        """Note a folder of the owner's, or that its label is another one."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO folders (path, label) VALUES (?, ?) "
                "ON CONFLICT (path) DO UPDATE SET label = excluded.label",
                (path, label),
            )
        return self.folder(path)

    def remove_folder(self, folder: int) -> None:
        """Forget a folder with all its sources."""
        with self._transaction() as database:
            for (source,) in database.execute("SELECT id FROM sources WHERE folder = ?", (folder,)).fetchall():
                self._remove(source)
            database.execute("DELETE FROM folders WHERE id = ?", (folder,))

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
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO sources (folder, path) VALUES (?, ?)", (folder, path))
            (source,) = database.execute(
                "SELECT id FROM sources WHERE folder = ? AND path = ?", (folder, path)
            ).fetchone()
            version = database.execute(
                "INSERT INTO versions (source, size, modified, hash, parser, problem) VALUES (?, ?, ?, ?, ?, ?)",
                (source, fingerprint.size, fingerprint.modified, fingerprint.hash, parser, problem),
            ).lastrowid
            database.executemany(
                "INSERT INTO passages (version, kind, name, first_line, last_line, cell, text, identifiers, header) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        *(version, one.kind, one.name, one.first_line, one.last_line, one.cell, one.text),
                        *(split_identifiers(one.text), header(path, one.name)),
                    )
                    for one in passages
                ],
            )
        assert version is not None  # noqa: S101 - a row was inserted
        return version

    def commit(self, version: int) -> None:
        """Make a staged version the current one, in place of the one before it.

        Raises
        ------
        NotFound
            It is not staged, or not any more.
        """
        with self._transaction() as database:
            row = database.execute("SELECT source FROM versions WHERE id = ? AND NOT is_current", (version,)).fetchone()
            if row is None:
                raise NotFound(f"There is no staged version {version}.")
            self._retire(row[0])
            database.execute("UPDATE versions SET is_current = 1 WHERE id = ?", (version,))
            self._words.add(version)

    def drop(self, version: int) -> None:
        """Forget a version that is staged only."""
        with self._transaction():
            self._drop_staged(version)

    def touch(self, source: int, size: int, modified: int) -> None:
        """Note that a file has another time, or size, but says what it said."""
        with self._transaction() as database:
            database.execute(
                "UPDATE versions SET size = ?, modified = ? WHERE source = ? AND is_current", (size, modified, source)
            )

    def move(self, source: int, path: str, modified: int) -> None:
        """Note that a source has another path in its folder, with the same passages; raises `NotFound`."""
        with self._transaction() as database:
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
        with self._transaction():
            self._remove(source)

    def scrub(self) -> bool:
        """Leave nothing on the disk of what was removed; whether that was possible: a reader may be in the way."""
        with self._writing, self._reading:
            try:
                self._words.optimise()
                (busy, _, _) = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.Error as exc:
                raise self._in_words(exc) from exc
        return not busy

    # What is asked.

    def folders(self) -> list[Folder]:
        """Return the folders that were added."""
        rows = self._ask("SELECT id, path, label FROM folders ORDER BY path")
        return [Folder(*row) for row in rows]

    def folder(self, path: str) -> Folder:
        """Return the folder that was added under this path; raises `NotFound`."""
        for folder in self.folders():
            if folder.path == path:
                return folder
        raise NotFound(f"{path} was not added. `ainet context list` shows what was.")

    def sources(self, folder: int) -> dict[str, Source]:
        """Return the sources of a folder by their paths."""
        rows = self._ask(f"{_SOURCE} WHERE folder = ?", (folder,))
        return {
            path: Source(number, of, path, Fingerprint(size, modified, digest), parser, passages, problem)
            for number, of, path, size, modified, digest, parser, problem, passages in rows
        }

    def passages(self, numbers: Sequence[int]) -> list[StoredPassage]:
        """Return the passages with these numbers, in this order, as far as they are current."""
        rows = self._ask(
            "SELECT current_passages.id, sources.id, folders.path, sources.path, "
            "text, kind, name, first_line, last_line, cell "
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
        with self._reading:
            try:
                return self._found.search(question, n, within=within, below=below, kind=kind)
            except sqlite3.Error as exc:
                raise self._in_words(exc) from exc

    def check(self) -> list[str]:
        """Compare everything with everything; returns what does not agree, in sentences."""
        with self._writing:
            found = [
                f"The database: {line}." for (line,) in self._writer.execute("PRAGMA integrity_check") if line != "ok"
            ]
            broken = self._writer.execute("PRAGMA foreign_key_check").fetchall()
            if broken:
                found.append(f"{len(broken)} rows belong to something that is gone.")
            if problem := self._words.check():
                found.append(f"The index of words does not agree with the passages ({problem}).")
        return found

    def rebuild(self) -> None:
        """Make the index of words anew."""
        with self._transaction():
            self._words.rebuild()

    def close(self) -> None:
        """Close the files; nothing else may be called afterwards."""
        with self._writing, self._reading:
            for text, database in ((self._words, self._writer), (self._found, self._reader)):
                text.close()
                database.close()

    # Within a transaction.

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Do all that is done here, or nothing.

        Raises
        ------
        NotEnough
            The disk is full.
        AinetError
            The database cannot be written, or is damaged.
        """
        with self._writing:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except sqlite3.Error as exc:
                raise self._in_words(exc) from exc
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    def _in_words(self, error: sqlite3.Error) -> AinetError:
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_FULL":
            return NotEnough(f"The disk is full: {self._path} cannot grow. Make room; what was saved before is safe.")
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_LOCKED")):
            return AinetError(f"{self._path} cannot be written ({error}). What was saved before is safe.")
        if name == "SQLITE_CONSTRAINT_FOREIGNKEY":
            return NotFound("The folder was removed meanwhile.")
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return AinetError(f"{self._path} is damaged ({error}). {ADVICE}")
        raise error

    def _ask(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        with self._reading:
            try:
                return self._reader.execute(query, values).fetchall()
            except sqlite3.Error as exc:
                raise self._in_words(exc) from exc

    def _retire(self, source: int) -> None:
        """Forget the current version of a source, if there is one."""
        row = self._writer.execute("SELECT id FROM versions WHERE source = ? AND is_current", (source,)).fetchone()
        if row is not None:
            self._words.remove(row[0])
            self._delete(row[0])

    def _remove(self, source: int) -> None:
        self._retire(source)
        for (version,) in self._writer.execute("SELECT id FROM versions WHERE source = ?", (source,)).fetchall():
            self._delete(version)
        self._writer.execute("DELETE FROM sources WHERE id = ?", (source,))

    def _delete(self, version: int) -> None:
        self._writer.execute("DELETE FROM passages WHERE version = ?", (version,))
        self._writer.execute("DELETE FROM versions WHERE id = ?", (version,))

    def _drop_staged(self, version: int | None = None) -> None:
        staged = self._writer.execute(
            "SELECT id FROM versions WHERE NOT is_current AND (? IS NULL OR id = ?)", (version, version)
        ).fetchall()
        for (number,) in staged:
            self._delete(number)
        self._writer.execute("DELETE FROM sources WHERE id NOT IN (SELECT source FROM versions)")


def header(path: str, name: str) -> str:
    """Return what is indexed besides a passage: its path and its qualified name, and the words of both."""
    both = f"{path} {name}"
    return f"{both} {split_identifiers(both)}".rstrip()
