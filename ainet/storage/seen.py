"""Parts of the storage, as others see them: nothing else is there for them.

A connection gets tables of its own in front of the storage's: views of the same names that show the sources of some
folders, and an index of just their words, in memory. So no query can see more, and also the frequencies of words, on
which scores depend, are those of what may be seen.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

from ainet.storage.database import Reader
from ainet.storage.view import StorageView

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: Indexes that are kept for the next question.
MOST_KEPT = 2
_IN_SIGHT = "(SELECT folder FROM temp.in_sight)"
_SCHEMA = f"""
PRAGMA temp_store = MEMORY;
CREATE TEMP TABLE in_sight (folder INTEGER PRIMARY KEY);
CREATE TEMP VIEW folders AS SELECT * FROM main.folders WHERE id IN {_IN_SIGHT};
CREATE TEMP VIEW sources AS SELECT * FROM main.sources WHERE folder IN {_IN_SIGHT};
CREATE TEMP VIEW versions AS SELECT versions.* FROM main.versions
    JOIN main.sources ON main.sources.id = source WHERE folder IN {_IN_SIGHT};
CREATE TEMP VIEW passages AS SELECT passages.* FROM main.passages
    JOIN main.versions ON main.versions.id = version JOIN main.sources ON main.sources.id = source
    WHERE folder IN {_IN_SIGHT};
CREATE TEMP VIEW relations AS SELECT relations.* FROM main.relations
    JOIN main.passages ON main.passages.id = passage
    JOIN main.versions ON main.versions.id = version JOIN main.sources ON main.sources.id = source
    WHERE folder IN {_IN_SIGHT};
CREATE TEMP VIEW current_passages AS SELECT passages.* FROM temp.passages
    JOIN main.versions ON main.versions.id = version WHERE is_current;
CREATE TEMP VIEW forgotten AS SELECT * FROM main.forgotten WHERE 0;
CREATE TEMP VIEW settings AS SELECT * FROM main.settings WHERE 0;
CREATE TEMP VIEW audiences AS SELECT * FROM main.audiences WHERE 0;
CREATE TEMP VIEW entries AS SELECT * FROM main.entries WHERE 0;
CREATE TEMP VIEW indexes AS SELECT * FROM main.indexes WHERE 0;
CREATE TEMP VIEW unembedded AS SELECT * FROM main.unembedded WHERE 0;
CREATE VIRTUAL TABLE temp.words USING fts5 (
    text, identifiers, header,
    content = 'current_passages', content_rowid = 'id', tokenize = 'porter unicode61'
);
CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab (temp, words, row);
"""  # noqa: S608 - names of this module only


class SeenPart:
    """Makes views of parts of a storage, and keeps the last ones. Any thread may call it.

    Parameters
    ----------
    path
        The storage's database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[tuple[int, ...], _Part] = {}
        self._using = threading.Lock()

    @contextlib.contextmanager
    def of(self, folders: Sequence[int]) -> Iterator[StorageView]:
        """Have these folders, as they are at one moment; others wait meanwhile."""
        key = tuple(sorted(folders))
        with self._using:
            part = self._kept.pop(key, None) or _Part(self._path, key)
            self._kept[key] = part
            while len(self._kept) > MOST_KEPT:
                self._kept.pop(next(iter(self._kept))).view.close()
            with part.now() as view:
                yield view

    def close(self) -> None:
        """Keep none; what was removed from the storage is in none of the next ones."""
        with self._using:
            for part in self._kept.values():
                part.view.close()
            self._kept.clear()


class _Part:
    def __init__(self, path: Path, folders: Sequence[int]) -> None:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        self._reader = Reader(path, connection)
        with self._reader.reading():
            connection.executescript(_SCHEMA)
            connection.executemany("INSERT INTO in_sight VALUES (?)", [(folder,) for folder in folders])
        self.view = StorageView(self._reader)
        self._state: list[Any] | None = None

    @contextlib.contextmanager
    def now(self) -> Iterator[StorageView]:
        with self._reader.reading() as database:
            database.execute("BEGIN")
            try:
                state = database.execute(
                    "SELECT versions.id, path FROM versions JOIN sources ON sources.id = source "
                    "WHERE is_current ORDER BY versions.id"
                ).fetchall()
                if state != self._state:
                    self._state = None  # as long as the index is made
                    database.execute("INSERT INTO words (words) VALUES ('rebuild')")
                    self.view.recount()
                    self._state = state
                yield self.view
            finally:
                database.execute("COMMIT")
