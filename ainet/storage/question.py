"""The words of a question, as full text search is asked for them: rare ones find passages, all of them rank these."""

from __future__ import annotations

import itertools
import re
import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from ainet.storage.identifiers import parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WORD = re.compile(r"\w+")
#: Words whose terms are kept: asking takes a hundred times as long.
MOST_KNOWN = 20_000
#: Words of a question that are looked at.
MOST_WORDS = 64
#: Words in more than this part of the passages find none by themselves: a search would take too long. They help to rank
#: what the others find, which is worth 5 points of nDCG. Where there are not enough rarer words, two of the rarest find
#: together what none of these finds: half the time, as good in sum (a point less for statements, more for questions).
COMMON, ENOUGH, TOGETHER = 0.02, 3, 3
#: In collections up to this size, words in no more than this number of passages find them all: that takes milliseconds.
#: In none do words that are in more.
SMALL, FEW = 50_000, 5000
#: Words that say nothing of what a question is about.
STOP_WORDS = frozenset(  # a list would take a page
    """
    a about above after again all also am an and any are as at be because been before being below between both but
    by can cannot could did do does doing down during each few for from further had has have having he her here hers
    him his how i if in into is it its itself just let like may me might more most must my no nor not now of off on
    once only or other our ours out over own same shall she should so some such than that the their theirs them then
    there these they this those through to too under until up us use used using very was we were what when where
    which while who whom why will with would you your yours
    """.split()  # noqa: SIM905
)


class Stemmer:
    """Says how full text search writes words, by asking it: Python's sqlite3 gives no access to its tokenizers."""

    def __init__(self) -> None:
        self._database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._database.executescript(
            "CREATE VIRTUAL TABLE asked USING fts5 (word, tokenize = 'porter unicode61');"
            "CREATE VIRTUAL TABLE terms USING fts5vocab (asked, instance);"
        )
        self._known: dict[str, list[str]] = {}

    def terms(self, words: Sequence[str]) -> list[list[str]]:
        """Return the terms of each word, in order; a word such as ``a_b`` has two, one of signs none."""
        new = [word for word in dict.fromkeys(words) if word not in self._known]
        if len(self._known) + len(new) > MOST_KNOWN:
            self._known.clear()
            new = list(dict.fromkeys(words))
        if new:
            self._known.update(zip(new, self._ask(new), strict=True))
        return [self._known[word] for word in words]

    def _ask(self, words: Sequence[str]) -> list[list[str]]:
        database = self._database
        database.execute("BEGIN")
        try:
            database.executemany("INSERT INTO asked (rowid, word) VALUES (?, ?)", list(enumerate(words)))
            found: list[list[str]] = [[] for _ in words]
            for row, term in database.execute("SELECT doc, term FROM terms ORDER BY doc, offset"):
                found[row].append(term)
        finally:
            database.execute("ROLLBACK")
        return found

    def close(self) -> None:
        self._database.close()


def words_of(question: str) -> list[str]:
    """Return the words of a question, each once, with the words of which its identifiers consist; no stop words."""
    found: dict[str, None] = {}
    for word in WORD.findall(question)[:MOST_WORDS]:
        found[word] = None
        pieces = parts(word)
        if len(pieces) > 1:
            found.update(dict.fromkeys(pieces))
    telling = {word.lower(): word for word in found if word.lower() not in STOP_WORDS}
    return list(telling.values()) or list(found)


#: A word, as the terms of which it consists.
Word = tuple[str, ...]


class Question(NamedTuple):
    """A question, as the index is asked.

    Attributes
    ----------
    finding
        The expression for passages with rare words; empty where no passage has any of the words.
    ranked
        The expression for the same passages that has all words; those that find count twice.
    ranking
        All words, and in how many passages each is; empty where `finding` has them all.
    rare, pairs
        The words that find passages by themselves, and those that do so together.
    """

    finding: str
    ranked: str
    ranking: dict[Word, int]
    rare: list[Word]
    pairs: list[tuple[Word, Word]]

    @classmethod
    def of(cls, words: list[str], terms: list[list[str]], passages: int, count: Callable[[str], int]) -> Question:
        """Return a question.

        Parameters
        ----------
        terms
            The terms of each word.
        passages
            How many there are.
        count
            Tells in how many of them a term is.
        """
        known: dict[Word, tuple[int, str]] = {}
        for word, its_terms in zip(words, terms, strict=True):
            key = tuple(its_terms)
            if key and key not in known and (frequency := min(map(count, its_terms))):
                known[key] = frequency, word
        most = min(max(COMMON * passages, FEW * min(1.0, SMALL / max(passages, 1))), FEW)
        by_frequency = sorted(known, key=known.__getitem__)
        quoted = {key: f'"{word}"' for key, (_, word) in known.items()}
        everything = " OR ".join(quoted[key] for key in by_frequency)
        n = sum(known[key][0] <= most for key in by_frequency)
        rare, pairs = by_frequency[:n], []
        if n < ENOUGH:
            pairs = list(itertools.combinations(by_frequency[n:TOGETHER], 2))
        if n == len(by_frequency) or not (rare or pairs):  # all, a single common word, or none
            return cls(everything, everything, {}, [], [])
        finding = [quoted[key] for key in rare] + [f"({quoted[one]} AND {quoted[other]})" for one, other in pairs]
        expression = " OR ".join(finding)
        frequencies = {key: frequency for key, (frequency, _) in known.items()}
        return cls(expression, f"({expression}) AND ({everything})", frequencies, rare, pairs)
