"""Documents on disk: each change as it comes, and now and then a snapshot in its place."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from ainet.errors import AinetError
from ainet.sqlite import open_database

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS updates (number INTEGER PRIMARY KEY, document TEXT, data BLOB);
CREATE INDEX IF NOT EXISTS of_document ON updates (document);
"""


class DocumentStore:
    """The updates of all documents of a node, in one SQLite file (0600).

    Parameters
    ----------
    path
        The file; it is created when it is missing.

    Raises
    ------
    AinetError
        The file is damaged, or of a newer ainet.
    """

    def __init__(self, path: Path) -> None:
        self._file = open_database(
            path, SCHEMA, 1, advice="Restore it from a backup, or move it away: the members have copies."
        )

    def close(self) -> None:
        self._file.close()

    def names(self) -> list[str]:
        """Return the names of all documents."""
        return [name for (name,) in self._file.execute("SELECT DISTINCT document FROM updates ORDER BY document")]

    def updates(self, document: str) -> list[bytes]:
        """Return the updates of a document in the order in which they came."""
        rows = self._file.execute("SELECT data FROM updates WHERE document = ? ORDER BY number", (document,))
        return [data for (data,) in rows]

    def append(self, document: str, update: bytes) -> None:
        """Keep one more update.

        Raises
        ------
        AinetError
            The disk is full, or cannot be written.
        """
        self._write([("INSERT INTO updates (document, data) VALUES (?, ?)", (document, update))])

    def replace(self, document: str, snapshot: bytes) -> None:
        """Keep `snapshot` in place of all updates of a document."""
        self._write(
            [
                ("DELETE FROM updates WHERE document = ?", (document,)),
                ("INSERT INTO updates (document, data) VALUES (?, ?)", (document, snapshot)),
            ]
        )

    def delete(self, document: str) -> None:
        self._write([("DELETE FROM updates WHERE document = ?", (document,))])
        self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _write(self, statements: list[tuple[str, tuple[object, ...]]]) -> None:
        try:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                for statement, values in statements:
                    self._file.execute(statement, values)
            except BaseException:
                self._file.execute("ROLLBACK")
                raise
            self._file.execute("COMMIT")
        except sqlite3.Error as exc:
            raise AinetError(f"A shared document cannot be saved: {exc}. Is the disk full?") from exc
