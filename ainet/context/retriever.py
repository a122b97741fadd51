"""Which passages answer a question: by their words, by their vectors, and by what they have to do with each other."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from ainet.context.relation_question import relation_question
from ainet.storage.identifiers import parts
from ainet.storage.relations import whole_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ainet.context.relation_question import RelationQuestion
    from ainet.storage.records import Definition, Found, RelationKind, StoredPassage
    from ainet.storage.view import StorageView

#: Passages that each way of searching puts forward.
DEPTH = 100
#: How much vectors count beside words, by what is asked: names and terms, statements, questions. Vectors of a static
#: model know little of rare terms.
STATIC, BETTER = (0.0, 0.15, 0.4), (0.0, 0.5, 1.0)
#: Passages without a word of the question must be this similar: unrelated texts have 0.1, and of 1000 one has 0.5.
LEAST_SIMILAR = 0.3
#: Words up to which a question is a list of terms.
FEW_WORDS = 3
#: The ways to have to do with a file.
OF_FILES: tuple[RelationKind, ...] = ("reads", "writes", "links")
#: How much an import says beside a call.
IMPORT = 0.5
#: Definitions of what is described whose relations are followed.
THINGS = 10
#: What counts less, and by how much: tests, and files that hand on what others define.
TEST, FACE = 0.8, 0.8
#: The definition of a name that a question has counts this much more; passages of a file with several hits a little.
NAMED, COMPANY, MOST_COMPANY = 0.5, 0.02, 3
#: Of statements and questions, words that are neighbours in a passage, too, count this much more. As many of the best
#: passages are looked at.
TOGETHER, LOOKED_AT = 0.2, 50
#: What was written just now counts this much more, and half of that after this many days.
RECENT, HALF_AFTER = 0.05, 30.0
DEFINITIONS = frozenset(("function", "class", "definition"))
#: At most this number of the first passages are from one file.
FIRST, OF_A_FILE = 5, 2

DAY = 24 * 3600 * 1e9  # ns

_QUESTION = re.compile(r"(?i)\?\s*$|^\W*(?:how|why|what|when|where|which|who|is|are|can|does|do|should)\b")
_TEST = re.compile(r"(?:^|/)(?:tests?/|test_[^/]*$|[^/]*_test\.\w+$|conftest\.py$)")


class Ranked(NamedTuple):
    """A passage, how well it fits, and why it was found."""

    passage: StoredPassage
    score: float
    reason: str


class Retriever:
    """Ranks the passages of a storage.

    Parameters
    ----------
    is_static
        Whether vectors come from a static model, which knows less.
    """

    def __init__(self, storage: StorageView, *, is_static: bool = True) -> None:
        self._storage = storage
        self._is_static = is_static

    def find(
        self,
        question: str,
        n: int = 10,
        *,
        words: Sequence[Found] | None = None,
        vectors: Sequence[Found] = (),
        below: str | None = None,
        kind: str | None = None,
    ) -> list[Ranked]:
        """Return the `n` passages that fit a question best, the best first.

        Parameters
        ----------
        words
            What `words` has found; None: it is asked.
        vectors
            The passages whose vectors are nearest to the question's.
        below, kind
            Only passages in this folder or file, and of this kind.
        """
        relation = relation_question(question)
        if words is None:
            words = self.words(question, below=below, kind=kind)
        scores = fuse(words, vectors, weight_of(question, is_static=self._is_static))
        reasons = {one.id: "words" for one in words}
        reasons |= {one.id: "words and meaning" if one.id in reasons else "meaning" for one in vectors}
        reasons = {number: reasons[number] for number in scores}
        related = self._related(relation, words, below, kind) if relation is not None else {}
        reasons |= dict.fromkeys(related, _reason(relation))
        best = max(scores.values(), default=1.0) or 1.0
        total = {number: score / best for number, score in scores.items()}
        if related:  # what has to do with the thing comes first; among it, what fits the question
            most = max(related.values())
            total = {number: 0.5 * total.get(number, 0) for number in total | related}
            for number, score in related.items():
                total[number] += 1 + score / most
        passages = {one.id: one for one in self._storage.passages(list(total))}
        known = {number: score for number, score in total.items() if number in passages}
        if relation is None or not related:
            self._weigh(question, known, passages)
        elif relation.direction != "tests":  # among callers that are as certain, tests come last
            known = {
                number: score * TEST if _TEST.search(passages[number].path) else score
                for number, score in known.items()
            }
        ranked = sorted(known, key=lambda number: (-known[number], number))
        return [Ranked(passages[number], known[number], reasons[number]) for number in _spread(ranked, passages, n)]

    def words(self, question: str, *, below: str | None = None, kind: str | None = None) -> list[Found]:
        """Return the passages that fit a question best by their words alone."""
        relation = relation_question(question)
        asked = relation.thing if relation is not None else question
        return self._storage.search(asked, DEPTH, below=below, kind=kind)

    def _related(
        self, asked: RelationQuestion, words: Sequence[Found], below: str | None, kind: str | None
    ) -> dict[int, float]:
        """Return passages in the relation that is asked for, with their weights."""
        is_limited = below is not None or kind is not None
        things = self._things(asked.thing, self._storage.search(asked.thing, DEPTH) if is_limited else words)
        found: dict[int, float] = defaultdict(float)
        files = [kind for kind in asked.kinds if kind in OF_FILES]
        if files and asked.direction == "to":
            found |= dict.fromkeys(self._storage.relations.of_file(asked.thing, files), 1.0)
        if asked.direction == "definition":
            for definition, weight in things:
                found[definition.passage] = max(found[definition.passage], weight)
        elif asked.direction == "from":
            weights = {definition.passage: weight for definition, weight in things}
            for related in self._storage.relations.targets(list(weights), asked.kinds):
                found[related.passage] += weights[related.to] * related.weight
        else:
            kinds = asked.kinds or ("calls", "imports", "uses", "mentions")
            own = {definition.passage for definition, _ in things}
            for definition, weight in things:
                for related in self._storage.relations.mentions(definition, kinds):
                    if related.passage not in own or len(own) > 1:
                        part = IMPORT if related.kind == "imports" and len(kinds) > 1 else 1.0
                        found[related.passage] += weight * related.weight * part
        if asked.direction == "tests":
            tests = {one.id for one in self._storage.passages(list(found)) if _TEST.search(one.path)}
            return {number: weight for number, weight in found.items() if number in tests}
        if is_limited:
            allowed = self._storage.among(list(found), below=below, kind=kind)
            return {number: found[number] for number in allowed}
        return dict(found)

    def _things(self, thing: str, words: Sequence[Found]) -> list[tuple[Definition, float]]:
        """Return what may be meant: by its name, or else by what describes it; the more likely, the larger."""
        name = thing.removesuffix("()").strip("`'\" ")
        if re.fullmatch(r"[\w.]+", name):
            named = self._storage.relations.named([name])
            exact = [one for one in named if f".{whole_name(one)}".endswith(f".{name}")] or named
            if exact:
                return [(one, 1.0) for one in exact[:THINGS]]
        order = {one.id: i for i, one in enumerate(words)}
        found = sorted(self._storage.relations.definitions(list(order)), key=lambda one: order[one.passage])[:THINGS]
        return [(one, 1 / (1 + i)) for i, one in enumerate(found)]

    def _weigh(self, question: str, scores: dict[int, float], passages: dict[int, StoredPassage]) -> None:
        """Let structure have its say: the definition of what is named, files with several hits, tests, faces."""
        words = re.findall(r"\w[\w.]*", question)
        is_name = len(words) == 1
        named = {word.rstrip(".") for word in words if is_name or len(parts(word)) > 1 or "." in word.rstrip(".")}
        lasts = {word.rpartition(".")[2] for word in named}
        asks_for_tests = re.search(r"(?i)\btests?\b", question) is not None
        if len(question.split()) > FEW_WORDS:
            best = sorted(scores, key=lambda number: -scores[number])[:LOOKED_AT]
            together = self._storage.together(question, [passages[number].passage.text for number in best])
            for number, part in zip(best, together, strict=True):
                scores[number] += TOGETHER * part
        now = time.time_ns()
        company = Counter(passages[number].source for number in sorted(scores, key=lambda one: -scores[one])[:20])
        for number, score in scores.items():
            one = passages[number]
            is_named = one.passage.name.rpartition(".")[2] in lasts and one.passage.kind in DEFINITIONS
            days = max(now - one.dated, 0) / DAY
            factor = 1 + COMPANY * min(company[one.source] - 1, MOST_COMPANY) + RECENT * 0.5 ** (days / HALF_AFTER)
            if not asks_for_tests and _TEST.search(one.path):
                factor *= TEST
            if one.path.rpartition("/")[2] == "__init__.py":
                factor *= FACE
            scores[number] = (score + NAMED * is_named) * factor


def weight_of(question: str, *, is_static: bool = True) -> float:
    """Return how much vectors count for a question."""
    terms, statement, asked = STATIC if is_static else BETTER
    if len(question.split()) <= FEW_WORDS:
        return terms
    return asked if _QUESTION.search(question) else statement


def fuse(words: Sequence[Found], vectors: Sequence[Found], weight: float) -> dict[int, float]:
    """Return scores of both together: of the words as a part of the best, of vectors by their place in their range.

    Adding scores keeps how far ahead the first one is, which ranks do not tell: 2 to 5 points of nDCG more than
    reciprocal rank fusion (`benchmarks/context.py`).
    """
    best = max((one.score for one in words), default=0.0)
    scores = {one.id: one.score / best if best else 0.0 for one in words}
    near = [one.score for one in vectors]
    if weight and near:
        low, high = min(near), max(near)
        for one in vectors:
            if one.score < LEAST_SIMILAR and one.id not in scores:
                continue
            place = (one.score - low) / (high - low) if high > low else 1.0
            scores[one.id] = scores.get(one.id, 0.0) + weight * place
    return scores


def _spread(ranked: Iterable[int], passages: dict[int, StoredPassage], n: int) -> list[int]:
    """Return `n` passages in their order, but few of one file among the first, and what is said twice once."""
    chosen: list[int] = []
    later: list[int] = []
    of_file: Counter[int] = Counter()
    said: set[str] = set()
    for number in ranked:
        if len(chosen) >= n:
            break
        text = " ".join(passages[number].passage.text.split())
        if text in said:
            continue
        said.add(text)
        source = passages[number].source
        if len(chosen) < FIRST and of_file[source] >= OF_A_FILE:
            later.append(number)
            continue
        of_file[source] += 1
        chosen.append(number)
        if len(chosen) == FIRST:
            chosen += later
            later = []
    return (chosen + later)[:n]


def _reason(asked: RelationQuestion | None) -> str:
    if asked is None:
        return ""
    if asked.direction == "definition":
        return f"defines {asked.thing}"
    if asked.direction == "tests":
        return f"tests {asked.thing}"
    if asked.direction == "from":
        return f"{asked.thing} {asked.kinds[0]} it"
    return f"{asked.kinds[0]} {asked.thing}"
