"""The index of files that hold tensors. It is only an index: when it is lost, files are hashed again."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ainet.errors import AinetError
from ainet.models.gguf import files_of
from ainet.sqlite import open_database

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Iterable

SCHEMA = """
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, digest TEXT);
CREATE TABLE IF NOT EXISTS places (
    hash TEXT, path TEXT REFERENCES files(path) ON DELETE CASCADE, offset INTEGER, nbytes INTEGER,
    PRIMARY KEY (hash, path)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS places_by_path ON places (path);
"""
SCHEMA_VERSION = 1


class Place(NamedTuple):
    """Bytes of a file."""

    path: str
    offset: int
    nbytes: int


class TensorIndex:
    """Which tensors lie in which files, valid as long as a file's size and time of modification are unchanged.

    May be used from any thread.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._database = _open(path)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def add(
        self,
        path: Path,
        stat: os.stat_result,
        places: Iterable[tuple[str, int, int]],
        *,
        digest: str | None = None,
    ) -> None:
        """Remember which tensors lie in a file, as (hash, offset, nbytes); `digest` if it is that of a whole model."""
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("DELETE FROM files WHERE path = ?", (str(path),))
            self._database.execute("INSERT INTO files VALUES (?, ?, ?, ?)", (str(path), *identity(stat), digest))
            self._database.executemany(
                "INSERT OR IGNORE INTO places VALUES (?, ?, ?, ?)",
                ((key, str(path), offset, nbytes) for key, offset, nbytes in places),
            )

    def forget(self, path: Path) -> None:
        """Forget the tensors of a file that is gone or changed."""
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("DELETE FROM files WHERE path = ?", (str(path),))

    def is_current(self, path: Path) -> bool:
        """Return whether a file is known and unchanged."""
        rows = self._select("SELECT size, mtime_ns FROM files WHERE path = ?", str(path))
        try:
            return bool(rows) and rows[0] == identity(path.stat())
        except OSError:
            return False

    def known_in(self, path: Path) -> dict[tuple[int, int], str]:
        """Return the hashes of a file's tensors, as far as they are known and it is unchanged, by offset and size."""
        if not self.is_current(path):
            return {}
        rows = self._select("SELECT offset, nbytes, hash FROM places WHERE path = ?", str(path))
        return {(offset, nbytes): key for offset, nbytes, key in rows}

    def digest_of(self, path: Path) -> str | None:
        """Return the digest of the model in a file that is known and unchanged, or None."""
        rows = self._select("SELECT digest FROM files WHERE path = ?", str(path))
        if rows and rows[0][0] and all(map(self.is_current, files_of(path))):
            return str(rows[0][0])
        return None

    def file_of(self, digest: str) -> Path | None:
        """Return an unchanged file that holds the whole model, or None."""
        for (path,) in self._select("SELECT path FROM files WHERE digest = ? ORDER BY path", digest):
            if self.digest_of(Path(path)) == digest:
                return Path(path)
        return None

    def place(self, key: str) -> Place | None:
        """Return where the tensor with the hash `key` lies in an unchanged file, or None."""
        for row in self._select("SELECT path, offset, nbytes FROM places WHERE hash = ?", key):
            if self.is_current(Path(row[0])):
                return Place(*row)
            self.forget(Path(row[0]))
        return None

    def holders(self, key: str) -> list[str]:
        """Return the unchanged files in which the tensor with the hash `key` lies."""
        rows = self._select("SELECT path FROM places WHERE hash = ?", key)
        return [path for (path,) in rows if self.is_current(Path(path))]

    def _select(self, query: str, value: str) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(query, (value,)).fetchall()


def identity(stat: os.stat_result) -> tuple[int, int]:
    """Return what changes when a file does."""
    return stat.st_size, stat.st_mtime_ns


def _open(path: Path) -> sqlite3.Connection:
    def opened() -> sqlite3.Connection:
        return open_database(path, SCHEMA, SCHEMA_VERSION, advice="Delete it: files are then read again.")

    try:
        return opened()
    except AinetError:  # it is only an index: it is made anew
        for leftover in path.parent.glob(f"{path.name}*"):
            leftover.unlink()
        return opened()
