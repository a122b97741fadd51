"""Tables of comma-separated values: their columns, of which types, and the first rows."""

from __future__ import annotations

import csv
import io
import itertools
from typing import TYPE_CHECKING

from ainet.errors import UsageError
from ainet.storage.records import Passage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Characters at the beginning of the file that are looked at, and rows that are shown.
LOOKED_AT, SHOWN = 1_000_000, 5
#: Most characters of one shown value, and most columns.
MOST_VALUE, MOST_COLUMNS = 60, 200


def table_passages(text: str) -> Iterator[Passage]:
    """Yield one passage with the columns; raises `UsageError` for what is no table."""
    beginning = text[:LOOKED_AT]
    if len(text) > LOOKED_AT:
        beginning = beginning.rpartition("\n")[0]  # its last row may be cut
    try:
        dialect: type[csv.Dialect] | str = csv.Sniffer().sniff(beginning[:20_000], ",;\t|")
    except csv.Error:
        dialect = "excel"
    try:
        rows = [row for row in csv.reader(io.StringIO(beginning), dialect) if row]
    except csv.Error as exc:
        raise UsageError(f"is no table ({exc})") from exc
    if not rows:
        return
    header, values = rows[0][:MOST_COLUMNS], rows[1:]
    columns = [f"{name.strip()}: {_type([row[i] for row in values if i < len(row)])}" for i, name in enumerate(header)]
    shown = [", ".join(value.strip()[:MOST_VALUE] for value in row[:MOST_COLUMNS]) for row in values[:SHOWN]]
    more = "at least " if len(text) > LOOKED_AT else ""
    about = f"Table of {more}{len(values)} rows with the columns"
    yield Passage("\n".join([about, *columns, "First rows:", *shown]), "table", "", 1, 1 + len(shown))


def _type(values: Sequence[str]) -> str:
    """Return the narrowest type of all values that are not empty, in words."""
    given = [value.strip() for value in itertools.islice(values, 10_000) if value.strip()]
    for name, read in (("integer", int), ("number", float)):
        try:
            for value in given:
                read(value)
        except ValueError:
            continue
        return name if given else "empty"
    return "text"
