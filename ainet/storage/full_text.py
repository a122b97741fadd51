"""Full text search over the current passages, in SQLite's FTS5."""

from __future__ import annotations

import itertools
import math
import sqlite3
from typing import TYPE_CHECKING

from ainet.storage.question import STOP_WORDS, WORD, Stemmer, match_of, words_of
from ainet.storage.records import Found

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Weights of the columns: text, words of identifiers, path with qualified name (`benchmarks/context.py`).
WEIGHTS = (1.0, 0.5, 1.0)
_COLUMNS = "text, identifiers, header"


def _telling(text: str) -> list[str]:
    return [word for word in WORD.findall(text) if word.lower() not in STOP_WORDS]


class FullText:
    """The index of words. It is changed in the transactions of whoever changes the passages.

    Parameters
    ----------
    database
        With the tables of `schema`.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._stemmer = Stemmer()

    def add(self, version: int) -> None:
        """Add the passages of a version."""
        self._database.execute(
            f"INSERT INTO words (rowid, {_COLUMNS}) SELECT id, {_COLUMNS} FROM passages WHERE version = ?",  # noqa: S608
            (version,),
        )

    def remove(self, version: int) -> None:
        """Take the passages of a version out again; they must be what they were when they were added."""
        self._database.execute(
            f"INSERT INTO words (words, rowid, {_COLUMNS}) "  # noqa: S608
            f"SELECT 'delete', id, {_COLUMNS} FROM passages WHERE version = ?",
            (version,),
        )

    def search(
        self,
        question: str,
        n: int,
        *,
        below: str | None = None,
        kind: str | None = None,
    ) -> list[Found]:
        """Return the `n` passages that fit a question best, the best one first.

        Parameters
        ----------
        below
            A folder or file that the passages are in.
        kind
            The kind of passages; None for all.
        """
        words = words_of(question)
        (passages,) = self._database.execute("SELECT count(*) FROM words_docsize").fetchone()
        match = match_of(words, self._stemmer.terms(words), passages, self._count)
        if not match:
            return []
        text, identifiers, header = WEIGHTS
        if below is None and kind is None:  # looking each one up takes as long as finding it
            rows = self._database.execute(
                "SELECT rowid, bm25(words, ?, ?, ?) AS score FROM words WHERE words MATCH ? ORDER BY score LIMIT ?",
                (text, identifiers, header, match, n),
            )
            return [Found(passage, -score) for passage, score in rows]
        rows = self._database.execute(
            "SELECT words.rowid, bm25(words, ?, ?, ?) AS score FROM words "
            "JOIN passages ON passages.id = words.rowid JOIN versions ON versions.id = passages.version "
            "JOIN sources ON sources.id = versions.source JOIN folders ON folders.id = sources.folder "
            "WHERE words MATCH ? "
            "AND (? IS NULL OR substr(folders.path || '/' || sources.path || '/', 1, length(?) + 1) = ? || '/') "
            "AND (? IS NULL OR passages.kind = ?) ORDER BY score LIMIT ?",
            (
                *(text, identifiers, header, match),
                *(below, below, below, kind, kind, n),
            ),
        )
        return [Found(passage, -score) for passage, score in rows]

    def coverage(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return how much of what a question says is in each text, from 0 to 1; rare words say more."""
        terms = {term for its in self._stemmer.terms(words_of(question)) for term in its}
        weights = self.weights(sorted(terms))
        whole = sum(weights.values())
        if not whole:
            return [0.0] * len(texts)
        words = [frozenset(WORD.findall(text)) for text in texts]
        all_words = list(frozenset().union(*words))
        telling = {
            word: both
            for word, its in zip(all_words, self._stemmer.terms(all_words), strict=True)
            if (both := terms.intersection(its))
        }
        found = []
        for some in words:
            there = {term for word in some & telling.keys() for term in telling[word]}
            found.append(sum(weights[term] for term in there) / whole)
        return found

    def together(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return which part of a question's neighbours are neighbours in each text, from 0 to 1; rare words say more.

        Stop words stand between no neighbours.
        """
        asked = [term for its in self._stemmer.terms(_telling(question)) for term in its]
        weights = self.weights(sorted(set(asked)))
        pairs = {(one, other): weights[one] + weights[other] for one, other in itertools.pairwise(asked)}
        whole = sum(pairs.values())
        if not whole:
            return [0.0] * len(texts)
        words = [_telling(text) for text in texts]
        all_words = list(frozenset().union(*words))
        terms = dict(zip(all_words, self._stemmer.terms(all_words), strict=True))
        found = []
        for some in words:
            there = frozenset(itertools.pairwise(term for word in some for term in terms[word]))
            found.append(sum(weight for pair, weight in pairs.items() if pair in there) / whole)
        return found

    def weights(self, terms: Sequence[str]) -> dict[str, float]:
        """Return how much each term says: its inverse document frequency."""
        (passages,) = self._database.execute("SELECT count(*) FROM words_docsize").fetchone()
        return {term: math.log(1 + (passages + 1) / (self._count(term) + 0.5)) for term in terms}

    def check(self) -> str:
        """Return what is wrong with the index, compared with the passages; empty where nothing is."""
        try:
            self._database.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
        except sqlite3.DatabaseError as exc:
            return str(exc)
        return ""

    def rebuild(self) -> None:
        """Make the index anew from the passages."""
        self._database.execute("INSERT INTO words (words) VALUES ('rebuild')")

    def optimise(self) -> None:
        """Merge the index into one, in which nothing is left of what was removed."""
        self._database.execute("INSERT INTO words (words) VALUES ('optimize')")

    def close(self) -> None:
        self._stemmer.close()

    def _count(self, term: str) -> int:
        row = self._database.execute("SELECT doc FROM vocabulary WHERE term = ?", (term,)).fetchone()
        return int(row[0]) if row is not None else 0
