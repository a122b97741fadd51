"""Limits of a GBNF grammar, checked before llama.cpp sees it.

llama.cpp's parser and its check for left recursion are recursive, copy what is repeated, and visit a rule as often as
there are ways to reach it: a grammar of a few kilobytes can end the process or keep it busy for ever. What is counted
here is what that code does with the text; whether the grammar is valid is left to llama.cpp.
"""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from ainet.errors import UsageError

MAX_GRAMMAR = 64 * 1024  # bytes of GBNF, or of a JSON schema
MAX_DEPTH = 1000  # brackets inside brackets; the parser's recursion fits 10,000 into a stack of 8 MiB
MAX_REPEATS = 1000  # llama.cpp itself gives up at 2000
MAX_NAME = 500  # characters of a rule's name, which llama.cpp copies for every bracket in the rule
MAX_ELEMENTS = 300_000  # characters and references after repetitions are written out; 8 bytes each, held twice
MAX_WAYS = 10_000  # from the beginning of a rule to a first character: llama.cpp tries each with each token
MAX_VISITS = 10_000_000  # elements seen on all these ways, from all rules: a tenth of a second

TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+|\#[^\r\n]*)
    |(?P<literal>"(?:\\.|[^"\\])*")
    |(?P<terminal>\[(?:\\.|[^\]\\])*\]|!?<[^>]*>|\.)
    |(?P<rule>[A-Za-z0-9-]+)(?P<defined>[ \t]*(?:\#[^\r\n]*)?::=)?
    |(?P<open>\()|(?P<close>\))|(?P<other>\|)
    |(?P<repeat>[*+?]|\{[ \t]*(?P<least>\d+)[ \t]*(?P<comma>,)?[ \t]*(?P<most>\d*)[ \t]*\})""",
    re.VERBOSE | re.DOTALL,
)


class Item(NamedTuple):
    """A rule, group or terminal as it stands in an alternative."""

    #: Name of the rule or group; empty for characters.
    refers: str
    #: Elements in llama.cpp's form: characters, or 1 for a reference.
    size: int
    least: int = 1
    most: int = 1


class Rule:
    """Alternatives of a rule or of a group, each a list of items."""

    def __init__(self) -> None:
        self.alternatives: list[list[Item]] = [[]]

    @property
    def last(self) -> list[Item]:
        """The alternative that is being read."""
        return self.alternatives[-1]

    def elements(self) -> int:
        """Return how many elements llama.cpp makes of the rule; each optional repetition is a rule of its own."""
        return sum((item.size + 2) * max(item.most, 1) for items in self.alternatives for item in items)

    def beginnings(self, empty: set[str]) -> list[Item]:
        """Return the items that a text may begin with, when the rules in `empty` may be empty."""
        found = []
        for items in self.alternatives:
            for item in items:
                found.append(item)
                if not may_be_empty(item, empty):
                    break
        return found


def may_be_empty(item: Item, empty: set[str]) -> bool:
    """Whether `item` may stand for nothing, when the rules in `empty` may."""
    return not item.least or not item.size or item.refers in empty


def check_grammar(text: str, what: str = "The grammar") -> None:
    """Raise `UsageError` for a grammar that llama.cpp cannot be trusted with; `what` names it in the message."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        raise UsageError(f"{what} is not valid Unicode: {exc.reason} at character {exc.start}.") from exc
    _limit(f"{what} has {size} bytes", size, MAX_GRAMMAR)
    rules = _read(text, what)
    elements = sum(rule.elements() for rule in rules.values())
    _limit(f"{what} grows to {elements} elements when its repetitions are written out", elements, MAX_ELEMENTS)
    ways, visits = _beginnings(rules, what)
    _limit(f"{what} is too ambiguous: a rule can begin in {ways} ways", ways, MAX_WAYS)
    _limit(f"{what} is too ambiguous: {visits} elements can stand at the beginning of a rule", visits, MAX_VISITS)


def _limit(words: str, value: int, most: int) -> None:
    if value > most:
        raise UsageError(f"{words}; at most {most} are allowed.")


def _read(text: str, what: str) -> dict[str, Rule]:
    """Return rules and groups by name; a group's name begins with a space, so that no rule has it.

    A rule ends with its line, unless a bracket is open; an alternative may begin on the next line.
    """
    rules: dict[str, Rule] = {}
    rule = Rule()
    around: list[tuple[Rule, str, int]] = []  # the rules whose brackets are open, the group in each, and where
    used: dict[str, int] = {}  # the rules that are referred to, and where first
    position = 0
    may_break, has_ended = True, True  # whether a line may end here, and whether it has ended the rule
    while position < len(text):
        found = TOKEN.match(text, position)
        if found is None or "\0" in found[0]:
            raise _wrong(text, position, _missing(text, position, has_ended=has_ended), what)
        begin, position = position, found.end()
        kind = found.lastgroup
        if kind == "space":
            has_ended = has_ended or (("\n" in found[0] or "\r" in found[0]) and not may_break and not around)
            continue
        if found["defined"]:
            if around:
                raise _wrong(text, begin, f"`)` for the `(` at {_place(text, around[-1][2])}", what)
            if not has_ended:
                raise _wrong(text, begin, "the end of the line before the next rule", what)
            name = found["rule"]
            _limit(f"{what} has a rule name of {len(name)} characters", len(name), MAX_NAME)
            rule = rules[name] = Rule()
            may_break, has_ended = True, False
            continue
        if has_ended:
            raise _wrong(text, begin, "a rule (`name ::= …`)", what)
        may_break = False
        if kind == "rule":
            used.setdefault(found[0], begin)
            rule.last.append(Item(found[0], 1))
        elif kind in ("literal", "terminal"):
            _check_escapes(text, begin, found[0], what)
            quotes = 2 if kind == "literal" or found[0] == "[]" else 3 if found[0] == "[^]" else 0
            rule.last.append(Item("", len(found[0]) - quotes))
        elif kind == "open":
            around.append((rule, f" {len(rules)}", begin))
            _limit(f"{what} has {len(around)} brackets inside each other", len(around), MAX_DEPTH)
            rule = rules[around[-1][1]] = Rule()
        elif kind == "close":
            if not around:
                raise _wrong(text, begin, "no `)`: no `(` is open", what)
            rule, group, _ = around.pop()
            rule.last.append(Item(group, 1))
        elif kind == "other":
            rule.alternatives.append([])
            may_break = True
        else:
            if not rule.last or not (rule.last[-1].refers or rule.last[-1].size):
                raise _wrong(text, begin, f"something before `{found[0]}` that is repeated", what)
            least, most = _repeats(found, what)
            item = rule.last[-1]
            # Two repetitions of one item multiply.
            rule.last[-1] = item._replace(least=item.least * least, most=item.most * most)
    if around:
        raise _wrong(text, len(text), f"`)` for the `(` at {_place(text, around[-1][2])}", what)
    for name, where in used.items():
        if name not in rules:
            raise _wrong(text, where, f"a rule that exists: none is named `{name}`", what)
    if "root" not in rules and text:
        raise UsageError(f"{what} is not valid GBNF: it has no rule named `root`, with which an answer begins.")
    return rules


def _wrong(text: str, position: int, expected: str, what: str) -> UsageError:
    found = repr(text[position : position + 20]) if position < len(text) else "the end"
    return UsageError(
        f"{what} is not valid GBNF at {_place(text, position)}: {expected} was expected, but {found} was found."
    )


def _place(text: str, position: int) -> str:
    lines = text[:position].replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return f"line {len(lines)}, column {len(lines[-1]) + 1}"


def _missing(text: str, position: int, *, has_ended: bool) -> str:
    """Return what was expected where nothing of the language is."""
    match text[position]:
        case '"':
            return '`"` at the end of the text that begins here'
        case "[":
            return "`]` at the end of the class that begins here"
        case "{":
            return "a number of repetitions, `{n}`, `{n,}` or `{n,m}`,"
        case "_" if not has_ended:
            return "a rule's name of letters, digits and `-`"
    return "a rule (`name ::= …`)" if has_ended else "a text, a class, a rule's name or one of `( ) | * + ? {`"


def _check_escapes(text: str, begin: int, token: str, what: str) -> None:
    """Raise `UsageError` for a backslash before what llama.cpp knows no meaning of."""
    for found in re.finditer(
        r"\\(.)(?:(?<=x)[0-9a-fA-F]{2}|(?<=u)[0-9a-fA-F]{4}|(?<=U)[0-9a-fA-F]{8})?", token, re.DOTALL
    ):
        sign, size = found[1], len(found[0])
        if sign not in 'tnrxuU\\"[]-' or size != {"x": 4, "u": 6, "U": 10}.get(sign, 2):
            expected = 'one of `\\n \\r \\t \\\\ \\" \\[ \\] \\- \\xHH \\uHHHH \\UHHHHHHHH`'
            raise _wrong(text, begin + found.start(), expected, what)


def _repeats(found: re.Match[str], what: str) -> tuple[int, int]:
    sign = found["repeat"]
    if not sign.startswith("{"):
        return int(sign == "+"), 1 + (sign == "+")
    numbers = [number for number in (found["least"], found["most"]) if number]
    for number in numbers:
        # Not by value alone: Python refuses to read a number of thousands of digits.
        if len(number) > 9 or int(number) > MAX_REPEATS:
            raise UsageError(f"{what} repeats something {number[:20]} times; at most {MAX_REPEATS} are allowed.")
    least = int(numbers[0])
    if int(numbers[-1]) < least:  # llama.cpp would repeat it until memory ends
        raise UsageError(f"{what} repeats something {sign}: the most is below the least.")
    return least, max(int(numbers[-1]), least + bool(found["comma"]))


def _beginnings(rules: dict[str, Rule], what: str) -> tuple[int, int]:
    """Return the most ways in which a rule begins, and the elements on all of them; refuse what begins with itself."""
    empty = _empty(rules)
    begins = {name: rule.beginnings(empty) for name, rule in rules.items()}
    order = TopologicalSorter({name: [item.refers for item in items if item.refers] for name, items in begins.items()})
    ways: dict[str, int] = {}
    visits: dict[str, int] = {}
    try:
        for name in order.static_order():
            # What may be empty is followed by its own repetition.
            references = [
                (item.refers, max(item.most, 1) if item.refers in empty else 1)
                for item in begins.get(name, [])
                if item.refers
            ]
            count = len(begins.get(name, [])) + sum(ways[refers] * times for refers, times in references)
            seen = sum(visits[refers] * times for refers, times in references)
            ways[name] = min(count, 10 * MAX_WAYS)  # a rule of 64 KiB has numbers of thousands of digits
            visits[name] = min(seen + (rules[name].elements() if name in rules else 0), 10 * MAX_VISITS)
    except CycleError as exc:
        cycle = [name for name in exc.args[1] if not name.startswith(" ")] or ["a bracket"]
        raise UsageError(
            f"{what} is left-recursive: {' → '.join(cycle[:5])} begins with itself. Begin it with something else."
        ) from exc
    return max(ways.values(), default=0), sum(visits.values())


def _empty(rules: dict[str, Rule]) -> set[str]:
    """Return the rules that may stand for nothing."""
    empty: set[str] = set()
    missing: dict[tuple[str, int], int] = {}  # items of an alternative that are not known to be empty
    users: dict[str, list[tuple[str, int]]] = {}
    found = []
    for name, rule in rules.items():
        for n, items in enumerate(rule.alternatives):
            needed = [item for item in items if not may_be_empty(item, empty)]
            missing[name, n] = len(needed)
            for item in needed:
                users.setdefault(item.refers, []).append((name, n))
            if not needed:
                found.append(name)
    while found:
        name = found.pop()
        if name in empty:
            continue
        empty.add(name)
        for user in users.get(name, []):
            missing[user] -= 1
            if not missing[user]:
                found.append(user[0])
    return empty
