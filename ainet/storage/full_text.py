"""Full text search over the current passages, in SQLite's FTS5."""

from __future__ import annotations

import itertools
import math
import sqlite3
from collections import defaultdict
from typing import TYPE_CHECKING

from ainet.storage.asked_terms import SILENT, AskedTerms
from ainet.storage.question import MOST_KNOWN, STOP_WORDS, WORD, Question, Stemmer, words_of
from ainet.storage.records import Found

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ainet.storage.question import Word

#: Weights of the columns: text, words of identifiers, path with qualified name (`benchmarks/context.py`).
WEIGHTS = (1.0, 0.5, 1.0)
_COLUMNS = "text, identifiers, header"
#: Where the words of a question are in more passages than this in sum, FTS5 takes longer to weigh them than it takes
#: to read as many passages as rare words put forward.
OFTEN, PUT_FORWARD = 80_000, 100
#: How often terms that many passages have are in how many: counting takes long, so it is kept for terms in more than
#: this number, until there are a fiftieth more or fewer passages.
MANY, CHANGED = 1000, 50
#: Of BM25, as FTS5 has it.
_K1, _B, _LEAST_IDF = 1.2, 0.75, 1e-6


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
        #: By term, how many of how many passages had it.
        self._counted: dict[str, tuple[int, int]] = {}

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
        asked = Question.of(words, self._stemmer.terms(words), self._sizes()[0], self._count)
        if not asked.finding:
            return []
        if sum(asked.ranking.values()) <= OFTEN:
            return self._match(asked.ranked, n, below, kind)
        found = self._match(asked.finding, max(n, PUT_FORWARD), below, kind)
        return self._ranked(found, asked)[:n]

    def _match(self, expression: str, n: int, below: str | None, kind: str | None) -> list[Found]:
        """Return the `n` best passages by BM25."""
        weights = WEIGHTS
        if below is None and kind is None:  # looking each one up takes as long as finding it
            rows = self._database.execute(
                "SELECT rowid, bm25(words, ?, ?, ?) AS score FROM words WHERE words MATCH ? ORDER BY score LIMIT ?",
                (*weights, expression, n),
            )
            return [Found(passage, -score) for passage, score in rows]
        rows = self._database.execute(
            "SELECT words.rowid, bm25(words, ?, ?, ?) AS score FROM words "
            "JOIN passages ON passages.id = words.rowid JOIN versions ON versions.id = passages.version "
            "JOIN sources ON sources.id = versions.source JOIN folders ON folders.id = sources.folder "
            "WHERE words MATCH ? "
            "AND (? IS NULL OR substr(folders.path || '/' || sources.path || '/', 1, length(?) + 1) = ? || '/') "
            "AND (? IS NULL OR passages.kind = ?) ORDER BY score LIMIT ?",
            (*weights, expression, below, below, below, kind, kind, n),
        )
        return [Found(passage, -score) for passage, score in rows]

    def _ranked(self, found: Sequence[Found], asked: Question) -> list[Found]:
        """Return passages by BM25 of all words: for some, that is quicker than to ask for words that many have."""
        rows = self._database.execute(
            "SELECT passages.id, sz, text, identifiers, header FROM passages JOIN words_docsize USING (id) "
            "WHERE passages.id IN (SELECT value FROM json_each(?))",
            (str([one.id for one in found]),),
        ).fetchall()
        passages, tokens = self._sizes()
        terms = AskedTerms((term for its in asked.ranking for term in its), self._stemmer)
        n = len(WEIGHTS)
        columns = terms.frequencies([column for row in rows for column in row[-n:]])
        idf = {
            word: max(math.log((passages - often + 0.5) / (often + 0.5)), _LEAST_IDF)
            for word, often in asked.ranking.items()
        }
        scored = []
        for i, (number, size, *_) in enumerate(rows):
            norm = _K1 * (1 - _B + _B * sum(_varints(size)) * passages / tokens)
            scores = {
                word: idf[word] * often * (_K1 + 1) / (often + norm)
                for word, often in _frequencies(asked.ranking, columns[n * i : n * i + n]).items()
            }
            score = sum(scores.values()) + sum(scores.get(word, 0.0) for word in asked.rare)
            score += sum(scores[one] + scores[other] for one, other in asked.pairs if one in scores and other in scores)
            scored.append(Found(number, score))
        return sorted(scored, key=lambda one: (-one.score, one.id))

    def coverage(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return how much of what a question says is in each text, from 0 to 1; rare words say more."""
        terms = {term for its in self._stemmer.terms(words_of(question)) for term in its}
        weights = self.weights(sorted(terms))
        whole = sum(weights.values())
        if not whole:
            return [0.0] * len(texts)
        found = AskedTerms(terms, self._stemmer).frequencies(texts)
        return [sum(weights[term] for term in sorted(there)) / whole for there in found]

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
        found = []
        for terms in AskedTerms(asked, self._stemmer).order(texts):
            there = pairs.keys() & set(itertools.pairwise(term for term in terms if term is not SILENT))
            found.append(sum(pairs[pair] for pair in there) / whole)
        return found

    def weights(self, terms: Sequence[str]) -> dict[str, float]:
        """Return how much each term says: its inverse document frequency."""
        passages, _ = self._sizes()
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

    def count(self) -> int:
        """Return how many passages there are."""
        return self._sizes()[0]

    def recount(self) -> None:
        """Count anew in how many passages terms are: these are others now."""
        self._counted.clear()

    def _sizes(self) -> tuple[int, int]:
        """Return the number of passages, and of their words: FTS5 keeps both, and counting takes long."""
        row = self._database.execute("SELECT block FROM words_data WHERE id = 1").fetchone()
        passages, *tokens = (_varints(row[0]) if row is not None else []) or [0]
        return passages, sum(tokens)

    def _count(self, term: str) -> int:
        passages, _ = self._sizes()
        count, then = self._counted.get(term, (0, 0))
        if count > MANY and abs(passages - then) * CHANGED <= then:
            return count
        row = self._database.execute("SELECT doc FROM vocabulary WHERE term = ?", (term,)).fetchone()
        count = int(row[0]) if row is not None else 0
        if count > MANY:
            if len(self._counted) >= MOST_KNOWN:
                self._counted.clear()
            self._counted[term] = count, passages
        return count


def _frequencies(asked: Iterable[Word], columns: Sequence[Mapping[str, int]]) -> dict[Word, float]:
    """Return how often words are in a passage, with the weights of its columns; of several terms, the rarest counts."""
    terms: dict[str, float] = defaultdict(float)
    for weight, column in zip(WEIGHTS, columns, strict=True):
        for term, n in column.items():
            terms[term] += weight * n
    return {word: often for word in asked if (often := min(terms.get(term, 0.0) for term in word))}


def _varints(data: bytes) -> list[int]:
    """Return SQLite's integers of variable length."""
    found, value = [], 0
    for byte in data:
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            found.append(value)
            value = 0
    return found
