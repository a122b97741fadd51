"""SQLite's file of the storage: one connection writes, two read, and what goes wrong is said in words."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

from ainet.errors import AinetError, NotEnough, NotFound
from ainet.sqlite import open_database
from ainet.storage.schema import CHANGES, SCHEMA, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ADVICE = "Delete it, and `ainet context add` the folders again."


class Reader:
    """A connection that reads, for any thread; each call waits for the disk.

    Attributes
    ----------
    path
        The file.
    connection
        Used within `reading` only.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self.connection = path, connection
        self._using = threading.RLock()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Have the connection that reads.

        Raises
        ------
        AinetError
            The database cannot be read, or is damaged.
        """
        with self._using:
            try:
                yield self.connection
            except sqlite3.Error as exc:
                raise in_words(exc, self.path) from exc

    def ask(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """Return the rows of a query."""
        with self.reading() as database:
            return database.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file; nothing else may be called afterwards."""
        with self._using:
            self.connection.close()


class Database(Reader):
    """The file, for any thread.

    Attributes
    ----------
    writer
        The connection that writes, used within `transaction` and `writing` only.
    brief
        A second one that reads, for what takes no time and so does not wait for questions.
    """

    def __init__(self, path: Path) -> None:
        self.writer = open_database(path, SCHEMA, VERSION, advice=ADVICE, changes=CHANGES)
        super().__init__(path, _reading(path))
        self.brief = Reader(path, _reading(path))
        self._writing = threading.RLock()

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
                raise in_words(exc, self.path) from exc

    def close(self) -> None:
        """Close the file; nothing else may be called afterwards."""
        with self._writing:
            self.writer.close()
        self.brief.close()
        super().close()


def _reading(path: Path) -> sqlite3.Connection:
    connection = open_database(path, SCHEMA, VERSION, advice=ADVICE, changes=CHANGES)
    connection.execute("PRAGMA query_only = ON")
    return connection


def in_words(error: sqlite3.Error, path: Path) -> AinetError:
    """Return what a user is told of an error of the file at `path`; raises what no user can mend."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL":
        return NotEnough(f"The disk is full: {path} cannot grow. Make room; what was saved before is safe.")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_LOCKED")):
        return AinetError(f"{path} cannot be written ({error}). What was saved before is safe.")
    if name == "SQLITE_CONSTRAINT_FOREIGNKEY":
        return NotFound("The folder was removed meanwhile.")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return AinetError(f"{path} is damaged ({error}). {ADVICE}")
    raise error
