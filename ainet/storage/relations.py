"""What passages have to do with each other, by the names that they define and mention."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ainet.storage.records import Definition, Related

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from ainet.storage.database import Reader
    from ainet.storage.records import Passage, RelationKind

#: Passages of these kinds define what they are named.
DEFINING = frozenset(("function", "class"))
#: Most relations by one name that are looked at, and most files that define a name which is not looked for by its last
#: part alone.
MOST, MOST_ALIKE = 5000, 8
#: How far a mention of something counts: with its whole name, with an import from a package that may hand it on, and
#: with the last part of its name only, where that is the only one.
WHOLE, PACKAGE, LAST = 1.0, 0.7, 0.3
_LISTED = "(SELECT value FROM json_each(?))"


class Relations:
    """The relations of current passages.

    Parameters
    ----------
    database
        With the tables of `schema`.
    """

    def __init__(self, database: Reader) -> None:
        self._database = database

    def named(self, names: Sequence[str]) -> list[Definition]:
        """Return what defines these names, or the last parts of them."""
        return self._definitions("passages.symbol IN " + _LISTED, _json([name.rpartition(".")[2] for name in names]))

    def definitions(self, passages: Iterable[int]) -> list[Definition]:
        """Return what these passages define."""
        return self._definitions("passages.symbol <> '' AND passages.id IN " + _LISTED, str(list(passages)))

    def mentions(self, definition: Definition, kinds: Sequence[RelationKind]) -> list[Related]:
        """Return the passages that have to do with a definition in one of these ways, and how certain that is."""
        ((alike,),) = self._database.ask(
            "SELECT count(DISTINCT version) FROM passages JOIN versions ON versions.id = version AND is_current "
            "WHERE symbol = ? AND symbol <> ''",
            (definition.symbol,),
        )
        rows = self._database.ask(
            "SELECT relations.passage, relations.kind, target, versions.source, sources.path FROM relations "  # noqa: S608
            "JOIN passages ON passages.id = relations.passage "
            "JOIN versions ON versions.id = version AND is_current JOIN sources ON sources.id = versions.source "
            f"WHERE relations.symbol = ? AND relations.kind IN {_LISTED} "
            "AND (? OR substr(target, 1, 1) <> '?' OR versions.source = ?) LIMIT ?",
            (definition.symbol, _json(kinds), alike <= MOST_ALIKE, definition.source, MOST),
        )
        found: dict[tuple[int, RelationKind], Related] = {}
        for passage, kind, target, source, path in rows:
            weight = agreement(target, source, path, definition, alike)
            known = found.get((passage, kind))
            if weight and (known is None or known.weight < weight):
                found[passage, kind] = Related(passage, kind, weight)
        return list(found.values())

    def targets(self, passages: Iterable[int], kinds: Sequence[RelationKind] | None = None) -> list[Related]:
        """Return the definitions that these passages have to do with."""
        rows = self._database.ask(
            "SELECT passages.id, relations.kind, target, relations.symbol, versions.source, sources.path "  # noqa: S608
            "FROM relations JOIN passages ON passages.id = relations.passage "
            "JOIN versions ON versions.id = version AND is_current JOIN sources ON sources.id = versions.source "
            f"WHERE passages.id IN {_LISTED} AND (? OR relations.kind IN {_LISTED}) LIMIT ?",
            (str(list(passages)), kinds is None, _json(kinds or ()), MOST),
        )
        by_symbol: dict[str, list[Definition]] = {}
        for definition in self.named(sorted({symbol for *_, symbol, _, _ in rows if symbol})):
            by_symbol.setdefault(definition.symbol, []).append(definition)
        found: dict[tuple[int, int, RelationKind], Related] = {}
        for passage, kind, target, symbol, source, path in rows:
            known = by_symbol.get(symbol, [])
            for one in known:
                weight = agreement(target, source, path, one, len({other.source for other in known}))
                if weight and passage != one.passage:
                    found[passage, one.passage, kind] = Related(one.passage, kind, weight, passage)
        return list(found.values())

    def of_file(self, name: str, kinds: Sequence[RelationKind]) -> list[int]:
        """Return the passages that read, write or link to a file of this name."""
        rows = self._database.ask(
            "SELECT DISTINCT current_passages.id FROM relations "  # noqa: S608
            "JOIN current_passages ON current_passages.id = passage "
            f"WHERE relations.symbol = ? AND relations.kind IN {_LISTED} "
            "AND substr('/' || target, -length(?) - 1) = '/' || ? LIMIT ?",
            (PurePosixPath(name).name, _json(kinds), name, name, MOST),
        )
        return [number for (number,) in rows]

    def of_cells(self, source: int) -> list[tuple[int, int, RelationKind, str]]:
        """Return which variables the cells of a notebook use and assign: passage, when it ran, how, name."""
        return self._database.ask(
            "SELECT current_passages.id, ran, relations.kind, relations.symbol FROM current_passages "
            "JOIN versions ON versions.id = version JOIN relations ON passage = current_passages.id "
            "WHERE source = ? AND relations.kind IN ('uses', 'assigns') ORDER BY current_passages.id",
            (source,),
        )

    def notebooks_with(self, variable: str) -> list[int]:
        """Return the sources in which a cell assigns a variable."""
        rows = self._database.ask(
            "SELECT DISTINCT source FROM relations JOIN passages ON passages.id = passage "
            "JOIN versions ON versions.id = version AND is_current "
            "WHERE relations.symbol = ? AND relations.kind = 'assigns'",
            (variable,),
        )
        return [source for (source,) in rows]

    def _definitions(self, where: str, value: str) -> list[Definition]:
        rows = self._database.ask(
            "SELECT passages.id, passages.symbol, passages.name, versions.source, sources.path FROM passages "  # noqa: S608
            "JOIN versions ON versions.id = version AND is_current JOIN sources ON sources.id = versions.source "
            f"WHERE {where} ORDER BY passages.id",
            (value,),
        )
        return [Definition(*row) for row in rows]


def add_relations(database: sqlite3.Connection, version: int, passages: Sequence[Passage]) -> None:
    """Add the relations of a version's passages, in a transaction."""
    numbers = database.execute("SELECT id FROM passages WHERE version = ? ORDER BY id", (version,))
    database.executemany(
        "INSERT INTO relations (passage, kind, target, symbol) VALUES (?, ?, ?, ?)",
        [
            (number, relation.kind, relation.target, _last(relation.target, relation.kind))
            for (number,), passage in zip(numbers.fetchall(), passages, strict=True)
            for relation in passage.relations
        ],
    )


def remove_relations(database: sqlite3.Connection, version: int) -> None:
    """Take the relations of a version's passages away, in a transaction."""
    database.execute("DELETE FROM relations WHERE passage IN (SELECT id FROM passages WHERE version = ?)", (version,))


def symbol_of(passage: Passage) -> str:
    """Return the name that a passage defines, without what it stands in."""
    return passage.name.rpartition(".")[2] if passage.kind in DEFINING else ""


def agreement(target: str, source: int, path: str, definition: Definition, alike: int) -> float:
    """Return how certain it is that `target`, written in a file, means a definition.

    Parameters
    ----------
    source, path
        The file.
    alike
        How many files define something of that last name.
    """
    if target.startswith(":"):
        return WHOLE if source == definition.source and target[1:] == definition.name else 0.0
    if target.startswith("?"):
        return LAST / max(alike, 1) if source != definition.source else LAST
    module = _module(definition)
    whole = whole_name(definition)
    if target.startswith("."):
        here = PurePosixPath(path).parent.parts
        up = len(target) - len(target.lstrip(".")) - 1
        target = ".".join([*here[: len(here) - up], target.lstrip(".")])
    if f".{whole}".endswith(f".{target}"):
        return WHOLE
    if not target.endswith(f".{definition.name}") and target != definition.name:
        return 0.0
    package = target.removesuffix(definition.name).rstrip(".").split(".")
    return PACKAGE if package and package[-1] in module else 0.0


def whole_name(definition: Definition) -> str:
    """Return the name under which a definition can be imported: with its folders and its module."""
    return ".".join([*_module(definition), definition.name])


def _module(definition: Definition) -> tuple[str, ...]:
    parts = PurePosixPath(definition.path).with_suffix("").parts
    return parts[:-1] if parts[-1:] == ("__init__",) else parts


def _last(target: str, kind: str) -> str:
    """Return the last part of a name; files have their own names."""
    if kind in ("reads", "writes", "links"):
        return PurePosixPath(target).name
    return target.rpartition(".")[2].lstrip(":?")


def _json(values: Iterable[str]) -> str:
    return json.dumps(list(values))
