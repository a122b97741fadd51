"""Which passages have vectors, by the model that made these. The vectors themselves lie elsewhere.

A passage is noted before its vector is written, and after it. So whatever ends the process, it is known whose vector
may be on the disk; those of passages that are gone are owed: they are to be taken away from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ainet.storage.records import Unembedded, VectorIndex

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

#: Kinds of passages whose path tells what they are about: 3 points of MRR. That of a page of prose does not: -2 points.
CODE = frozenset(("function", "class", "module"))
#: The values of a list that is given as text.
LISTED = "(SELECT value FROM json_each(?))"


class VectorIndexes:
    """The indexes of all models. They are changed in the transactions of whoever changes the passages.

    Parameters
    ----------
    database
        With the tables of `schema`.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def all(self) -> list[VectorIndex]:
        """Return the indexes, the oldest first."""
        rows = self._database.execute(
            "SELECT id, model, name, dimensions, generation, owed, is_urgent, "
            "(SELECT count(*) FROM unembedded WHERE in_index = indexes.id) FROM indexes ORDER BY id"
        )
        return [
            VectorIndex(number, model, name, dimensions, generation, owed, bool(is_urgent), left)
            for number, model, name, dimensions, generation, owed, is_urgent, left in rows
        ]

    def open(self, model: str, name: str, dimensions: int) -> None:
        """Note a model; where it is new, no passage has its vector yet."""
        made = self._database.execute(
            "INSERT OR IGNORE INTO indexes (model, name, dimensions) VALUES (?, ?, ?)", (model, name, dimensions)
        )
        if made.rowcount:
            self._expect_all(made.lastrowid)

    def add(self, version: int) -> None:
        """Note that the passages of a version need vectors."""
        self._database.execute(
            "INSERT INTO unembedded (in_index, passage, is_own) SELECT indexes.id, passages.id, origin = '' "
            "FROM indexes, passages JOIN versions ON versions.id = version JOIN sources ON sources.id = source "
            "JOIN folders ON folders.id = folder WHERE version = ?",
            (version,),
        )

    def remove(self, version: int, *, urgently: bool) -> None:
        """Note that the vectors of a version's passages are not needed any more, or (`urgently`) must not stay."""
        self._database.execute(
            "UPDATE indexes SET is_urgent = is_urgent OR ?, "
            "owed = owed + (SELECT count(*) FROM passages WHERE version = ? AND NOT EXISTS "
            "(SELECT 1 FROM unembedded WHERE in_index = indexes.id AND passage = passages.id AND NOT is_tried))",
            (urgently, version),
        )
        self._database.execute(
            "DELETE FROM unembedded WHERE passage IN (SELECT id FROM passages WHERE version = ?)", (version,)
        )

    def next(self, index: int, n: int) -> list[Unembedded]:
        """Return passages that have no vector yet: of this device, the newest first; then of others, the oldest first.

        So two devices which begin with the newest ones of their own do not work at the same.
        """
        for order in ("is_own = 1 ORDER BY passage DESC", "is_own = 0 ORDER BY passage"):
            rows = self._database.execute(
                "SELECT passage, kind, name, header, text FROM unembedded JOIN passages ON passages.id = passage "  # noqa: S608
                f"WHERE in_index = ? AND {order} LIMIT ?",
                (index, n),
            ).fetchall()
            if rows:
                break
        return [
            Unembedded(number, f"{header if kind in CODE else name}\n{text}".lstrip("\n"))
            for number, kind, name, header, text in rows
        ]

    def trying(self, index: int, passages: Sequence[int]) -> None:
        """Note that the vectors of these passages may be on the disk from now on."""
        self._database.execute(
            f"UPDATE unembedded SET is_tried = 1 WHERE in_index = ? AND passage IN {LISTED}",  # noqa: S608
            (index, str(list(passages))),
        )

    def embedded(self, index: int, passages: Sequence[int]) -> None:
        """Note that these passages have vectors."""
        self._database.execute(
            f"DELETE FROM unembedded WHERE in_index = ? AND passage IN {LISTED}",  # noqa: S608
            (index, str(list(passages))),
        )

    def passages(self, index: int) -> list[int]:
        """Return the current passages that have vectors."""
        rows = self._database.execute(
            "SELECT id FROM current_passages WHERE NOT EXISTS "
            "(SELECT 1 FROM unembedded WHERE in_index = ? AND passage = current_passages.id) ORDER BY id",
            (index,),
        )
        return [number for (number,) in rows]

    def rewritten(self, index: int) -> None:
        """Note that the index's next table takes the place of its table, which is still there."""
        self._database.execute("UPDATE indexes SET generation = generation + 1 WHERE id = ?", (index,))

    def paid(self, index: VectorIndex) -> None:
        """Note that no table has what was owed when `index` was read."""
        self._database.execute(
            "UPDATE indexes SET owed = owed - ?1, is_urgent = is_urgent AND owed > ?1 WHERE id = ?2",
            (index.owed, index.id),
        )

    def reset(self, index: int) -> None:
        """Note that no passage has a vector in the next table, which takes the place of what may still be there."""
        self._database.execute("DELETE FROM unembedded WHERE in_index = ?", (index,))
        self._database.execute(
            "UPDATE indexes SET generation = generation + 1, owed = owed + 1, is_urgent = 1 WHERE id = ?", (index,)
        )
        self._expect_all(index)

    def drop(self, index: int) -> None:
        """Forget a model."""
        self._database.execute("DELETE FROM unembedded WHERE in_index = ?", (index,))
        self._database.execute("DELETE FROM indexes WHERE id = ?", (index,))

    def _expect_all(self, index: int | None) -> None:
        self._database.execute(
            "INSERT INTO unembedded (in_index, passage, is_own) SELECT ?, passages.id, origin = '' "
            "FROM current_passages AS passages JOIN versions ON versions.id = version "
            "JOIN sources ON sources.id = source JOIN folders ON folders.id = folder",
            (index,),
        )
