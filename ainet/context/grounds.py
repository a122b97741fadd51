"""Which passages go along with a question to a model, and which of them says what the answer says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ainet.api.generate import Citation
from ainet.context.citations import Citations, sentences_of
from ainet.storage.question import Stemmer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.api.context import FoundPassage
    from ainet.storage.view import StorageView

#: The part of what a question says that at least one passage must have; otherwise none goes along.
LEAST_COVERED = 0.5
#: Of the best passage's score: passages with less do not go along.
LEAST_SCORE = 0.3
#: How much less a heading says than a sentence below it.
HEADING = 0.5
NOTHING = "nothing in your documents covers the question: the model was asked without them"
#: Bytes of a model, and how many passages go along up to there: small models are led astray by what does not help.
BY_SIZE: tuple[tuple[int, int], ...] = ((500_000_000, 2), (3_000_000_000, 4))
MOST_PASSAGES = 8
#: The part of the context window that passages may take, and characters of a token.
WINDOW, CHARACTERS = 0.4, 3


def chosen(storage: StorageView, question: str, found: Sequence[FoundPassage]) -> list[FoundPassage]:
    """Return the passages that are about the question: none, unless one of them covers half of what it says."""
    covered = storage.coverage(question, [f"{one.path} {one.name} {one.text}" for one in found])
    if max(covered, default=0.0) < LEAST_COVERED:
        return []
    best = found[0].score
    return [
        one
        for one, part in zip(found, covered, strict=True)
        if one.score >= LEAST_SCORE * best and part >= LEAST_COVERED / 2
    ]


def merged(
    storage: StorageView,
    question: str,
    own: Sequence[FoundPassage],
    others: Sequence[FoundPassage],
    most: int,
) -> list[FoundPassage]:
    """Return the best passages of several devices, by their scores, and by how much of the question they cover.

    Scores alone say only what fits best on each device.
    """
    found = {(one.device, one.path, one.cell, one.line): one for one in [*others, *own]}
    covered = storage.coverage(question, [f"{one.path} {one.name} {one.text}" for one in found.values()])
    scored = [replace(one, score=one.score * part) for one, part in zip(found.values(), covered, strict=True)]
    best = sorted(scored, key=lambda one: (-one.score, one.device, one.path, one.line))[:most]
    return with_best_lines(storage, question, best)


def with_best_lines(storage: StorageView, question: str, found: Sequence[FoundPassage]) -> list[FoundPassage]:
    """Return passages that know which of their lines has most in common with the question."""
    sentences = [(one, sentence) for one in found if one.line for sentence in sentences_of(one.text)]
    covered = storage.coverage(question, [sentence.text for _, sentence in sentences])
    best: dict[int, tuple[float, int]] = {}
    for (one, sentence), covers in zip(sentences, covered, strict=True):
        begin = one.text.rfind("\n", 0, sentence.begin) + 1
        part = covers * HEADING if one.text.startswith("#", begin) else covers
        if part > best.get(id(one), (0.0, 0))[0]:
            best[id(one)] = part, one.line + one.text.count("\n", 0, sentence.begin)
    return [replace(one, best_line=best.get(id(one), (0.0, one.line))[1]) for one in found]


def number_for(model_bytes: int) -> int:
    """Return how many passages go along to a model of this size."""
    return next((n for size, n in BY_SIZE if model_bytes <= size), MOST_PASSAGES)


def fitting(passages: Sequence[FoundPassage], window: int) -> list[FoundPassage]:
    """Return the passages that have room in a context window of this number of tokens, the first one in any case."""
    left = int(window * WINDOW * CHARACTERS)
    kept: list[FoundPassage] = []
    for one in passages:
        if kept and len(one.text) > left:
            break
        left -= len(one.text)
        kept.append(one)
    return kept


def prompt(question: str, passages: Sequence[FoundPassage], *, named: bool) -> str:
    """Return a question with passages before it, the best one next to it.

    Parameters
    ----------
    named
        Whether each bears its number and where it stands: small models do better without.
    """
    parts = []
    for i in reversed(range(len(passages))):
        one = passages[i]
        head = f"[{i + 1}] {one.path}{f' ({one.name})' if one.name else ''}:\n" if named else ""
        parts.append(head + one.text.strip())
    return "\n\n".join([*parts, question])


def citations(
    storage: StorageView,
    question: str,
    answer: str,
    passages: Sequence[FoundPassage],
    similar: Sequence[Sequence[float]] | None = None,
) -> list[Citation]:
    """Return the sentences of an answer, each with the passage that says it; see `Citations.cite`."""
    stemmer = Stemmer()
    try:
        known: dict[str, float] = {}

        def weight(term: str) -> float:
            if term not in known:
                known.update(storage.weights([term]))
            return known[term]

        found = Citations(weight, stemmer).cite(answer, [one.text for one in passages], question, similar)
    finally:
        stemmer.close()
    cited = []
    for one in found:
        line, quote = 0, ""
        if one.passage is not None and one.source is not None:
            passage = passages[one.passage]
            line = passage.line + passage.text.count("\n", 0, one.source.begin) if passage.line else 0
            quote = one.source.text
        cited.append(Citation(one.sentence.begin, one.sentence.end, one.passage, line, quote))
    return cited
