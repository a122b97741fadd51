"""Versions of sources, within transactions: staged, made current, taken away with all that belongs to them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ainet.errors import NotFound
from ainet.storage.full_text import FullText
from ainet.storage.identifiers import split_identifiers
from ainet.storage.indexes import VectorIndexes
from ainet.storage.relations import add_relations, remove_relations, symbol_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from ainet.storage.records import Fingerprint, Passage


#: The note in the storage that the disk may still have what was removed.
UNSCRUBBED = "unscrubbed"


class Versions:
    """Changes the sources of a storage. Each call belongs in a transaction of the caller's.

    Parameters
    ----------
    database
        With the tables of `schema`.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        #: The index of the words of all current versions.
        self.words = FullText(database)
        #: Which of their passages have vectors.
        self.indexes = VectorIndexes(database)

    def stage(
        self,
        folder: int,
        path: str,
        fingerprint: Fingerprint,
        *,
        parser: str,
        passages: Sequence[Passage],
        problem: str = "",
        dated: int | None = None,
    ) -> int:
        """Write a version, which nobody finds; returns its number.

        Parameters
        ----------
        dated
            When it was written (ns since 1970); None: as its fingerprint says, or now.
        """
        if dated is None:
            dated = fingerprint.modified if fingerprint.modified >= 0 else time.time_ns()
        self._database.execute("INSERT OR IGNORE INTO sources (folder, path) VALUES (?, ?)", (folder, path))
        (source,) = self._database.execute(
            "SELECT id FROM sources WHERE folder = ? AND path = ?", (folder, path)
        ).fetchone()
        version = self._database.execute(
            "INSERT INTO versions (source, size, modified, hash, dated, parser, problem) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (source, fingerprint.size, fingerprint.modified, fingerprint.hash, dated, parser, problem),
        ).lastrowid
        self._database.executemany(
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
        add_relations(self._database, version, passages)
        return version

    def commit(self, version: int) -> int:
        """Make a staged version the current one; returns its source. Raises `NotFound` when it is not staged."""
        row = self._database.execute(
            "SELECT source FROM versions WHERE id = ? AND NOT is_current", (version,)
        ).fetchone()
        if row is None:
            raise NotFound(f"There is no staged version {version}.")
        source: int = row[0]
        self._retire(source, urgently=False)
        self._database.execute("UPDATE versions SET is_current = 1 WHERE id = ?", (version,))
        self.words.add(version)
        self.indexes.add(version)
        return source

    def move(self, source: int, path: str, modified: int) -> None:
        """Give a source another path in its folder; raises `NotFound`."""
        row = self._database.execute("SELECT id FROM versions WHERE source = ? AND is_current", (source,)).fetchone()
        if row is None:
            raise NotFound(f"There is no source {source} any more.")
        version = row[0]
        self.words.remove(version)
        self._database.execute("UPDATE sources SET path = ? WHERE id = ?", (path, source))
        self._database.execute("UPDATE versions SET modified = ? WHERE id = ?", (modified, version))
        names = self._database.execute("SELECT id, name FROM passages WHERE version = ?", (version,)).fetchall()
        self._database.executemany(
            "UPDATE passages SET header = ? WHERE id = ?", [(header(path, name), number) for number, name in names]
        )
        self.words.add(version)

    def remove(self, source: int) -> None:
        """Take a source away, whose vectors must not stay."""
        self._retire(source, urgently=True)
        self._database.execute("INSERT OR IGNORE INTO settings VALUES (?, '')", (UNSCRUBBED,))
        for (version,) in self._database.execute("SELECT id FROM versions WHERE source = ?", (source,)).fetchall():
            self._delete(version)
        self._database.execute("DELETE FROM sources WHERE id = ?", (source,))

    def drop_staged(self, version: int | None = None) -> None:
        """Take a version away that is staged only, or (None) all of these."""
        staged = self._database.execute(
            "SELECT id FROM versions WHERE NOT is_current AND (? IS NULL OR id = ?)", (version, version)
        ).fetchall()
        for (number,) in staged:
            self._delete(number)
        self._database.execute("DELETE FROM sources WHERE id NOT IN (SELECT source FROM versions)")

    def _retire(self, source: int, *, urgently: bool) -> None:
        """Take the current version of a source away, if there is one."""
        row = self._database.execute("SELECT id FROM versions WHERE source = ? AND is_current", (source,)).fetchone()
        if row is not None:
            self.words.remove(row[0])
            self.indexes.remove(row[0], urgently=urgently)
            self._delete(row[0])

    def _delete(self, version: int) -> None:
        remove_relations(self._database, version)
        self._database.execute("DELETE FROM passages WHERE version = ?", (version,))
        self._database.execute("DELETE FROM versions WHERE id = ?", (version,))


def header(path: str, name: str) -> str:
    """Return what is indexed besides a passage: its path and its qualified name, and the words of both."""
    both = f"{path} {name}"
    return f"{both} {split_identifiers(both)}".rstrip()
