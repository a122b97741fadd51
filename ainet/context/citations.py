"""Which passage says what a sentence of an answer says. Small models do not cite; comparing does.

A sentence is compared with each sentence of each passage: by the words that they share, rare ones counting more, by the
pairs of neighbours among them, and, where vectors can be asked, by what both mean. Numbers and names must be there.
What no passage says gets no citation.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, NamedTuple

from ainet.storage.question import STOP_WORDS, Stemmer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: The end of a sentence, and signs that begin an item of a list.
_END = re.compile(r"(?<=[.!?…])[\"')\]*_`]*\s+|\n+")
_ITEM = re.compile(r"^\s*(?:[-*•>#]+|\d+[.)])\s+")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
#: Shares of words and of neighbours in a score, and the least score of a citation.
WORDS, NEIGHBOURS, LEAST = 0.6, 0.4, 0.7
#: Where similarities are known, they are added. Then a passage that is ahead of the others is believed earlier: this
#: part of its lead counts, where others are taken to have some score at least.
LEAD, OTHERS, LEAST_ALIKE = 0.5, 0.6, 1.52
#: Terms without which a sentence says nothing that could be cited.
FEWEST = 2


class Sentence(NamedTuple):
    """A sentence of a text, and where it stands there."""

    text: str
    begin: int
    end: int


class Cited(NamedTuple):
    """A sentence of an answer.

    Attributes
    ----------
    passage
        Number of the passage that says it; None: none does, or it says nothing.
    source
        The sentence of the passage.
    score
        How much they have in common, from 0 to 1; to 2 where similarities are known.
    """

    sentence: Sentence
    passage: int | None
    source: Sentence | None
    score: float


class _Said(NamedTuple):
    """The terms of a sentence, its pairs of neighbours, its numbers, and the terms of its names."""

    terms: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    numbers: frozenset[str]
    names: frozenset[str]

    def without(self, terms: frozenset[str]) -> _Said:
        """Return the same without some terms, unless nearly nothing is left."""
        rest = self.terms - terms
        if len(rest) < FEWEST:
            return self
        return self._replace(terms=rest, pairs=frozenset(pair for pair in self.pairs if not terms & {*pair}))


def sentences_of(text: str) -> list[Sentence]:
    """Return the sentences, headings and items of a text."""
    found, begin = [], 0
    for match in [*_END.finditer(text), None]:
        end = match.start() if match is not None else len(text)
        part = text[begin:end]
        bullet = _ITEM.match(part)
        start = begin + (bullet.end() if bullet is not None else len(part) - len(part.lstrip()))
        if text[start:end].strip():
            found.append(Sentence(text[start:end].rstrip(), start, start + len(text[start:end].rstrip())))
        begin = match.end() if match is not None else end
    return found


def compared(answer: str, passages: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the sentences of an answer and those of all passages, which are compared with each other."""
    return [one.text for one in sentences_of(answer)], [one.text for _, one in _sources(passages)]


def _sources(passages: Sequence[str]) -> list[tuple[int, Sentence]]:
    return [(number, one) for number, passage in enumerate(passages) for one in sentences_of(passage)]


class Citations:
    """Compares answers with passages.

    Parameters
    ----------
    weight
        Tells how much a term counts: its inverse document frequency.
    """

    def __init__(self, weight: Callable[[str], float], stemmer: Stemmer) -> None:
        self._weight = weight
        self._stemmer = stemmer

    def cite(
        self,
        answer: str,
        passages: Sequence[str],
        question: str = "",
        similar: Sequence[Sequence[float]] | None = None,
    ) -> list[Cited]:
        """Return the sentences of an answer, each with the passage that says it.

        Parameters
        ----------
        question
            What was asked: words that an answer repeats from it say nothing, where the passage has them, too.
        similar
            How similar each of the answer's sentences is to each of the passages' (-1 to 1), in `compared`'s order.
        """
        asked = sentences_of(answer)
        sources = _sources(passages)
        said = self._said([one.text for one in asked])
        known = self._said([one.text for _, one in sources])
        everything = self._said(passages)
        (repeated,) = self._said([question])
        asked_before = [(passage, repeated.terms & passage.terms) for passage in everything]
        return [
            self._best(one, terms, sources, known, asked_before, similar=similar[i] if similar is not None else None)
            for i, (one, terms) in enumerate(zip(asked, said, strict=True))
        ]

    def _best(
        self,
        sentence: Sentence,
        said: _Said,
        sources: Sequence[tuple[int, Sentence]],
        known: Sequence[_Said],
        everything: Sequence[tuple[_Said, frozenset[str]]],
        *,
        similar: Sequence[float] | None,
    ) -> Cited:
        none = Cited(sentence, None, None, 0.0)
        if len(said.terms) < FEWEST:
            return none
        best: dict[int, Cited] = {}
        for i, ((number, source), there) in enumerate(zip(sources, known, strict=True)):
            passage, repeated = everything[number]
            if not (said.numbers <= passage.numbers and said.names <= passage.terms):
                continue
            told = said.without(repeated)
            score = WORDS * sum(map(self._weight, told.terms & there.terms)) / sum(map(self._weight, told.terms))
            score += NEIGHBOURS * (len(told.pairs & there.pairs) / len(told.pairs) if told.pairs else score / WORDS)
            if score and similar is not None:
                score += similar[i]
            if score > best.get(number, none).score:
                best[number] = Cited(sentence, number, source, score)
        first, *others = [*sorted(best.values(), key=lambda one: -one.score), none]
        if similar is None:
            is_said = first.score >= LEAST
        else:
            lead = first.score - max(others[0].score if others else 0.0, OTHERS)
            is_said = first.score + LEAD * lead >= LEAST_ALIKE
        return first if is_said else first._replace(passage=None, source=None)

    def _said(self, texts: Sequence[str]) -> list[_Said]:
        words = [_WORD.findall(text) for text in texts]
        stems = iter(self._stemmer.terms([word for some in words for word in some]))
        found = []
        for text, some in zip(texts, words, strict=True):
            told = [(word, next(stems)) for word in some]
            terms = [term for word, its in told if word.lower() not in STOP_WORDS for term in its]
            # A word that begins with a capital although it begins no sentence is a name.
            names = [
                its for i, (word, its) in enumerate(told) if i and word[0].isupper() and word.lower() not in STOP_WORDS
            ]
            found.append(
                _Said(
                    frozenset(terms),
                    frozenset(itertools.pairwise(terms)),
                    frozenset(_NUMBER.findall(text)),
                    frozenset(term for its in names for term in its),
                )
            )
        return found
