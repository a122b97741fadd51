"""SQLite files that only the owner may read: opened in one way, with a version and with words for damage."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from ainet.errors import AinetError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Milliseconds for which a statement waits for other processes.
WAITS = 10_000


def put_aside(path: Path, moment: int) -> Path:
    """Rename a damaged database, with what belongs to it, so that a new one can be begun; returns its new path."""
    aside = path.with_name(f"{path.name}.damaged-{moment}")
    for end in ("", "-wal", "-shm"):
        part = path.with_name(path.name + end)
        if part.exists():
            part.rename(aside.with_name(aside.name + end))
    return aside


def open_database(
    path: Path, schema: str, version: int, *, advice: str, changes: Mapping[int, str] | None = None
) -> sqlite3.Connection:
    """Return the database at `path` (0600), created when it is missing.

    It has a write-ahead log, keeps foreign keys, and overwrites what is deleted.
    Every statement is a transaction of its own unless it stands between BEGIN and COMMIT.

    Parameters
    ----------
    schema
        Statements that create what is missing.
    version
        Of the schema.
    advice
        Advice for a damaged file: "Restore it from a backup, or …".
    changes
        By version, the statements that make the next one of it, besides those that create what is missing.

    Raises
    ------
    AinetError
        The file is damaged, cannot be written, or was written by a newer ainet.
    """
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=WAITS / 1000)
    try:
        path.chmod(0o600)
        (found,) = database.execute("PRAGMA user_version").fetchone()
        if found > version:
            raise AinetError(f"{path} was written by a newer ainet: update ainet on this device.")
        database.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            "PRAGMA secure_delete = ON; PRAGMA foreign_keys = ON;"
        )
        for number in range(found or version, version):
            change = (changes or {}).get(number, "")
            database.executescript(f"BEGIN; {change}; PRAGMA user_version = {number + 1}; COMMIT")
        database.executescript(f"{schema}; PRAGMA user_version = {version};")
    except sqlite3.DatabaseError as exc:
        database.close()
        raise AinetError(f"{path} is damaged ({exc}). {advice}") from exc
    except BaseException:
        database.close()
        raise
    return database
