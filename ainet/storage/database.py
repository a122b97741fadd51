"""SQLite's file of the storage: one connection writes, one reads, and what goes wrong is said in words."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

from ainet.errors import AinetError, NotEnough, NotFound
from ainet.sqlite import open_database
from ainet.storage.schema import SCHEMA, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ADVICE = "Delete it, and `ainet context add` the folders again."


class Database:
    """The file, for any thread; each call waits for the disk.

    Attributes
    ----------
    writer, reader
        The connections. They are used within `transaction` and `reading` only.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.writer = open_database(path, SCHEMA, VERSION, advice=ADVICE)
        self.reader = open_database(path, SCHEMA, VERSION, advice=ADVICE)
        self.reader.execute("PRAGMA query_only = ON")
        self._writing, self._reading = threading.RLock(), threading.Lock()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Do all that is done here, or nothing.

        Raises
        ------
        NotEnough
            The disk is full.
        AinetError
            The database cannot be written, or is damaged.
        """
        with self.writing() as database:
            try:
                database.execute("BEGIN IMMEDIATE")
                yield database
                database.execute("COMMIT")
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Have the connection that writes, without a transaction."""
        with self._writing:
            try:
                yield self.writer
            except sqlite3.Error as exc:
                raise self._in_words(exc) from exc

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Have the connection that reads."""
        with self._reading:
            try:
                yield self.reader
            except sqlite3.Error as exc:
                raise self._in_words(exc) from exc

    def ask(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """Return the rows of a query."""
        with self.reading() as database:
            return database.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file; nothing else may be called afterwards."""
        with self._writing, self._reading:
            self.writer.close()
            self.reader.close()

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
