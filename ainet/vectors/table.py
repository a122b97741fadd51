"""Tables of vectors in LanceDB. They hold numbers of passages and vectors, nothing else: no text lies in them.

Deleting rows leaves their vectors in LanceDB's files, so nothing is ever deleted from a table: it is written anew
without them, under another name, and the old one is dropped.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import threading
import warnings
from typing import TYPE_CHECKING, NamedTuple, cast

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import IvfRq, IvfSq

from ainet.errors import AinetError, NotEnough

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    import numpy.typing as npt
    from lancedb.query import LanceVectorQueryBuilder

    from ainet.vectors.model import Vectors

    Numbers = npt.NDArray[np.int64]

#: Bytes that LanceDB keeps in memory of indexes, and of what it knows of files. An index that has no room is read anew
#: for each question: of a million vectors of 256 numbers it has 88 MB.
INDEX_CACHE, METADATA_CACHE = 160 << 20, 16 << 20
#: Comparing with all vectors takes milliseconds up to this number of them, and misses none. They are kept in memory.
EXACT = 20_000
#: Beyond it an index has these bits of each number (RaBitQ), which are compared of all vectors: looking at a part of
#: the partitions loses more than it saves. Of the 50 nearest of 100,000 that finds 96 % in 7 ms; 8 bits (IvfSq) take
#: 32 ms.
BITS, ALL = 5, 10_000
#: Beyond this number of vectors it has fewer bits, so that it stays in memory, and the best ones are compared once more
#: as a whole: this many times those that are asked for, at least this number. That finds 99 % in 14 ms.
MANY, BITS_OF_MANY, REFINED, FEWEST_REFINED = 300_000, 2, 2, 250
#: LanceDB turns vectors for that, which it can where their numbers are a multiple of this.
TURNED = 8
#: An index is made again when this part of the vectors is not in it.
UNINDEXED = 0.2
#: After this number of additions a table's files are merged.
FRAGMENTS = 40
#: Numbers of vectors are stored with 16 bits, which find the same and take half the room. Tables of older nodes have
#: 32.
STORED = np.float16
#: Rows that are copied at once.
COPIED = 20_000
_AT_ONCE, _LATER = datetime.timedelta(0), datetime.timedelta(days=1)


class Near(NamedTuple):
    """Passages that were found: their numbers, and how similar each is to the question, from -1 to 1."""

    passages: Numbers
    similarities: npt.NDArray[np.float32]


NONE = Near(np.zeros(0, np.int64), np.zeros(0, np.float32))
NONE_VECTORS = np.zeros((0, 0), np.float32)


class VectorTables:
    """The tables of a folder. All methods raise `NotEnough` on a full disk, `AinetError` for a damaged table.

    Parameters
    ----------
    folder
        Where they lie; made if it is missing.
    exact
        Up to this number of vectors, all are compared with a question's.
    many
        Beyond this number of vectors, the index has fewer bits.
    fragments
        After this number of additions a table's files are merged.
    """

    def __init__(self, folder: Path, *, exact: int = EXACT, many: int = MANY, fragments: int = FRAGMENTS) -> None:
        self._exact, self._many, self._fragments = exact, many, fragments
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        session = lancedb.Session(index_cache_size_bytes=INDEX_CACHE, metadata_cache_size_bytes=METADATA_CACHE)
        self._database = lancedb.connect(str(folder), session=session)
        self._tables: dict[str, lancedb.table.Table] = {}
        self._added = 0
        #: Small tables: what was read of them, and what was added since.
        self._kept: dict[str, list[tuple[Numbers, Vectors]]] = {}
        #: How many vectors are in a table's index: asking costs as much as a question.
        self._indexed: dict[str, int] = {}
        #: Held while a table is read, and while what may be read goes.
        self._reading = threading.Lock()

    def add(self, name: str, passages: Numbers, vectors: Vectors) -> None:
        """Add vectors to a table, which is made if it is missing."""
        table = self._find(name)
        kind = STORED if table is None else table.schema.field("vector").type.value_type.to_pandas_dtype()
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1).astype(kind)), vectors.shape[1])
        self._append(name, pa.table({"passage": pa.array(passages), "vector": column}))
        self._added += 1
        if self._added >= self._fragments:
            self.merge(name)

    def search(self, name: str, vector: Vectors, n: int, *, among: Numbers | None = None) -> Near:
        """Return the `n` nearest passages, the nearest first; none where there is no such table.

        Parameters
        ----------
        among
            Only these passages are looked at.
        """
        with self._reading, _in_words(name):
            table = self._find(name)
            if table is None:
                return NONE
            if not self._indexed.get(name) and (whole := self._whole(name, table)) is not None:
                return _nearest(*whole, vector, n, among)
            query = cast("LanceVectorQueryBuilder", table.search(vector))
            query = query.distance_type("dot").select(["passage", "_distance"])
            # A passage may be there twice, where the process that added it ended before it could say so.
            n_found = n + max(n // 4, 1)
            if name not in self._indexed:
                self._indexed[name] = _indexed(table)
            if indexed := self._indexed[name]:
                query = query.nprobes(ALL)
                if indexed > self._many:
                    query = query.refine_factor(max(REFINED, FEWEST_REFINED // n_found))
            if among is not None:
                query = query.where(f"passage IN ({', '.join(map(str, among.tolist())) or '-1'})")
            found = query.limit(n_found).to_arrow()
        passages, first = np.unique(found["passage"].to_numpy(), return_index=True)
        order = np.argsort(first)[:n]
        return Near(passages[order], np.float32(1) - found["_distance"].to_numpy()[first[order]])

    def passages(self, name: str) -> Numbers:
        """Return the numbers of all passages of a table, in order."""
        table = self._find(name)
        if table is None:
            return NONE.passages
        with _in_words(name):
            rows = table.search().select(["passage"]).to_arrow()
        return np.sort(rows["passage"].to_numpy())

    def read(self, name: str, passages: Numbers) -> tuple[Numbers, Vectors]:
        """Return those of these passages that are in a table, in order, and their vectors."""
        with self._reading, _in_words(name):
            table = self._find(name)
            if table is None or not len(passages):
                return NONE.passages, np.zeros((0, 0), np.float32)
            rows = table.search().where(f"passage IN ({', '.join(map(str, passages.tolist()))})").to_arrow()
        numbers, first = np.unique(rows["passage"].to_numpy(), return_index=True)
        return numbers, _rows(rows)[1][first]

    def rewrite(self, old: str, new: str, keep: Numbers) -> int:
        """Write a table anew with these passages alone, each once; returns how many there were of them.

        The old one stays until it is dropped.
        """
        self._drop(new)
        table = self._find(old)
        if table is None:
            return 0
        with _in_words(old):
            missing = np.sort(keep)
            for batch in table.search().select(["passage", "vector"]).to_batches(batch_size=COPIED):
                passages, first = np.unique(batch["passage"].to_numpy(), return_index=True)
                is_kept = np.isin(passages, missing, assume_unique=True)
                missing = np.setdiff1d(missing, passages[is_kept], assume_unique=True)
                if is_kept.any():
                    rows = pa.Table.from_batches([batch]).take(pa.array(np.sort(first[is_kept])))
                    self._append(new, rows.select(["passage", "vector"]))
        self.index(new)
        return len(keep) - len(missing)

    def index(self, name: str) -> bool:
        """Make an index where there are many vectors that are in none; whether there was something to do."""
        table = self._find(name)
        if table is None:
            return False
        with _in_words(name):
            rows = table.count_rows()
            is_made = rows > self._exact and rows - _indexed(table) >= UNINDEXED * rows
            if is_made:
                dimensions = table.schema.field("vector").type.list_size
                bits = BITS if rows <= self._many else BITS_OF_MANY
                index = IvfSq(distance_type="dot") if dimensions % TURNED else IvfRq(distance_type="dot", num_bits=bits)
                table.create_index("vector", config=index)
                self._indexed.pop(name, None)
        if is_made or self._added:
            self.merge(name)  # each file takes its time
        return is_made

    def merge(self, name: str) -> None:
        """Merge the files of a table, and delete those that are not needed any more."""
        table = self._find(name)
        if table is not None:
            with _in_words(name):
                table.optimize(cleanup_older_than=_LATER)  # whoever reads goes on
            with self._reading, _in_words(name), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that nobody else may read it meanwhile: nobody does
                table.optimize(cleanup_older_than=_AT_ONCE, delete_unverified=True)
        self._added = 0

    def keep_only(self, names: Collection[str]) -> None:
        """Drop all other tables."""
        for name in self._names() - set(names):
            self._drop(name)

    def _whole(self, name: str, table: lancedb.table.Table) -> tuple[Numbers, Vectors] | None:
        """Return all of a table that is small, which is kept in memory; None for a large one."""
        kept = self._kept.get(name)
        if kept is None:
            if table.count_rows() > self._exact:
                return None
            kept = [_rows(table.search().select(["passage", "vector"]).to_arrow())]
        passages, vectors = kept[0] if len(kept) == 1 else (np.concatenate(part) for part in zip(*kept, strict=True))
        if len(passages) > self._exact:
            self._kept.pop(name, None)
            return None
        self._kept[name] = [(passages, vectors)]
        return passages, vectors

    def _append(self, name: str, rows: pa.Table) -> None:
        table = self._find(name)
        with _in_words(name):
            if table is None:
                self._tables[name] = self._database.create_table(name, rows)
            else:
                table.add(rows)
        with self._reading:
            if name in self._kept:
                self._kept[name].append(_rows(rows))

    def _find(self, name: str) -> lancedb.table.Table | None:
        if name not in self._tables and name in self._names():
            with _in_words(name):
                self._tables[name] = self._database.open_table(name)
        return self._tables.get(name)

    def _names(self) -> set[str]:
        with _in_words("the folder"):
            return set(self._database.list_tables().tables)

    def _drop(self, name: str) -> None:
        with self._reading, _in_words(name):
            self._tables.pop(name, None)
            self._kept.pop(name, None)
            self._indexed.pop(name, None)
            if name in self._names():
                self._database.drop_table(name)


def _rows(rows: pa.Table) -> tuple[Numbers, Vectors]:
    """Return the passages and vectors of rows."""
    column = rows["vector"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of no rows
        column = pa.concat_arrays(column.chunks)
    vectors = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return rows["passage"].to_numpy(), vectors.reshape(len(rows), -1) if len(rows) else NONE_VECTORS


def _nearest(passages: Numbers, vectors: Vectors, vector: Vectors, n: int, among: Numbers | None) -> Near:
    """Return the nearest of all vectors, each passage once."""
    if among is not None:
        is_meant = np.isin(passages, among)
        passages, vectors = passages[is_meant], vectors[is_meant]
    if not len(passages):
        return NONE
    similarities = vectors @ vector
    passages, first = np.unique(passages, return_index=True)
    order = np.argsort(-similarities[first], kind="stable")[:n]
    return Near(passages[order], similarities[first][order])


def _indexed(table: lancedb.table.Table) -> int:
    """Return how many rows are in an index."""
    stats = [table.index_stats(one.name) for one in table.list_indices()]
    return max((one.num_indexed_rows for one in stats if one is not None), default=0)


@contextlib.contextmanager
def _in_words(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as exc:  # what LanceDB raises for everything
        if getattr(exc, "errno", None) == errno.ENOSPC or "No space left" in str(exc):
            raise NotEnough("The disk is full: vectors cannot be saved. Make room; what was saved is safe.") from exc
        raise AinetError(f"The vectors of {name} cannot be used ({str(exc)[:200]}).") from exc
