"""Questions after relations: who calls it, what it raises, where it comes from. Which words ask for which."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from ainet.storage.records import RelationKind

#: ``to``: passages that have to do with the thing that is named; ``from``: things that it has to do with;
#: ``definition``: the thing itself; ``tests``: tests that have to do with it.
Direction = Literal["to", "from", "definition", "tests"]

_WHO = r"(?:who|what|which (?:\w+ )?(?:functions?|methods?|classes|class|code|cells?|files?|modules?|notebooks?)|where)"
_IS = r"(?:is|are|was|were|do (?:we|i)|does)"
_PLACES = r"(?:places?|functions?|methods?|classes|cells?|files?|modules?|code|everything|all)"


class RelationQuestion(NamedTuple):
    """What is asked: the ways to have to do with something, the direction, and what names the thing."""

    kinds: tuple[RelationKind, ...]
    direction: Direction
    thing: str


_ANY: tuple[RelationKind, ...] = ("calls", "imports", "inherits", "raises", "catches", "uses", "mentions")
_VERBS: tuple[tuple[str, tuple[RelationKind, ...]], ...] = (
    (r"call(?:s|ed)?|invok(?:e|es|ed)", ("calls",)),
    (r"import(?:s|ed)?", ("imports",)),
    (r"inherit(?:s|ed)?(?: from)?|subclass(?:es|ed)?|derive[sd]? from|extend(?:s|ed)?", ("inherits",)),
    (r"rais(?:e|es|ed)|throw(?:s|n)?", ("raises",)),
    (r"catch(?:es)?|caught|handle[sd]?", ("catches",)),
    (r"read(?:s)?|load(?:s|ed)?", ("reads",)),
    (r"writ(?:e|es|ten)|save[sd]?", ("writes",)),
    (r"link(?:s|ed)? to", ("links",)),
    (r"mention(?:s|ed)?", ("mentions",)),
    (r"use[sd]?|depend(?:s)? on|refer(?:s)? to", _ANY),
)


def _patterns() -> list[tuple[re.Pattern[str], tuple[RelationKind, ...], Direction]]:
    found: list[tuple[re.Pattern[str], tuple[RelationKind, ...], Direction]] = [
        (
            re.compile(
                r"(?i)^\W*(?:what|which|who) tests?(?: \w+)? (?:is |are )?(?:for |of |cover(?:s)? )?(?P<thing>.+)"
            ),
            (),
            "tests",
        ),
        (re.compile(r"(?i)^\W*(?:the )?tests? (?:of|for) (?P<thing>.+)"), (), "tests"),
        (re.compile(r"(?i)^\W*where (?:does|do) (?P<thing>.+) come from\W*$"), (), "definition"),
        (
            re.compile(r"(?i)^\W*where (?:is|are) (?P<thing>.+) (?:defined|declared|implemented|made|assigned)\W*$"),
            (),
            "definition",
        ),
        (re.compile(r"(?i)^\W*(?:the )?definition of (?P<thing>.+)"), (), "definition"),
        (
            re.compile(rf"(?i)^\W*(?:the )?(?:callers?|{_PLACES} (?:that|which) call) (?:of )?(?P<thing>.+)"),
            ("calls",),
            "to",
        ),
        (re.compile(r"(?i)^\W*(?:the )?(?:subclasses|children) of (?P<thing>.+)"), ("inherits",), "to"),
        (re.compile(r"(?i)^\W*(?:the )?usages? of (?P<thing>.+)"), _ANY, "to"),
    ]
    for verb, kinds in _VERBS:
        found += [
            # What does X call? What is raised by X?
            (
                re.compile(rf"(?i)^\W*(?:what|which \w+|whom?) (?:does|do|can|may|did) (?P<thing>.+?) (?:{verb})\W*$"),
                kinds,
                "from",
            ),
            (
                re.compile(rf"(?i)^\W*(?:what|which \w+) (?:is|are) (?:{verb}) (?:by|in|from) (?P<thing>.+)"),
                kinds,
                "from",
            ),
            # Where is X called? Who calls X?
            (re.compile(rf"(?i)^\W*(?:where|by whom|by what) {_IS} (?P<thing>.+?) (?:{verb})\W*$"), kinds, "to"),
            (
                re.compile(rf"(?i)^\W*(?:{_WHO}|{_PLACES} (?:that|which)|callers that) (?:{verb}) (?P<thing>.+)"),
                kinds,
                "to",
            ),
        ]
    return found


_PATTERNS = _patterns()
#: Words before what names a thing.
_ARTICLE = re.compile(
    r"(?i)^(?:(?:the|a|an|any|my|our)\s+)?"
    r"(?:(?:function|method|class|exception|error|module|variable|file|dataset|data|thing|one)s?\s+)?"
    r"(?:(?:that|which|called|named|to)\s+)?"
)


def relation_question(question: str) -> RelationQuestion | None:
    """Return the relation that a question asks for; None for any other question."""
    text = " ".join(question.split())
    for pattern, kinds, direction in _PATTERNS:
        match = pattern.match(text)
        if match:
            thing = match["thing"].strip(" ?.!`'\"")
            thing = _ARTICLE.sub("", thing) or thing
            return RelationQuestion(kinds, direction, thing)
    return None
