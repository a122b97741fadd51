"""Texts, as far as they have to do with a question: which of its terms they have, how often, and in what order."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ainet.storage.question import STOP_WORDS, WORD

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ainet.storage.question import Stemmer

#: In place of a word that is none of the question's, and of one that says nothing.
OTHER, SILENT = "", " "
_SILENT = {word: [SILENT] for word in STOP_WORDS}
#: Of ASCII, what belongs to words, in small letters; blanks for the rest.
_WORDS = "".join(chr(i).lower() if chr(i).isalnum() or chr(i) == "_" else " " for i in range(128))


class AskedTerms:
    """Looks for the terms of a question in texts.

    Parameters
    ----------
    asked
        The terms.
    """

    def __init__(self, asked: Iterable[str], stemmer: Stemmer) -> None:
        self._asked = frozenset(asked)
        #: A stem keeps the beginning of its word.
        self._firsts = frozenset(term[:1] for term in self._asked)
        self._stemmer = stemmer

    def order(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the terms of each text, in order, with `OTHER` and `SILENT` in place of all but the asked ones."""
        words = [_words(text) for text in texts]
        known = _SILENT | self._known(words)
        other = [OTHER]
        return [[term for word in some for term in known.get(word, other)] for some in words]

    def frequencies(self, texts: Sequence[str]) -> list[Counter[str]]:
        """Return how often each of the terms is in each text."""
        words = [_words(text) for text in texts]
        known = self._known(words)
        found = []
        for some in words:
            counts: Counter[str] = Counter()
            for word in known.keys() & set(some):
                n = some.count(word)
                for term in known[word]:
                    counts[term] += n
            del counts[OTHER]
            found.append(counts)
        return found

    def _known(self, words: Sequence[Sequence[str]]) -> dict[str, list[str]]:
        """Return the terms of the words that have some of the asked ones."""
        new = frozenset().union(*words)
        near = [word for word in new if word[0] in self._firsts or "_" in word or not word.isascii()]
        return {
            word: [term if term in self._asked else OTHER for term in its]
            for word, its in zip(near, self._stemmer.terms(near), strict=True)
            if not self._asked.isdisjoint(its)
        }


def _words(text: str) -> list[str]:
    return text.translate(_WORDS).split() if text.isascii() else WORD.findall(text.lower())
