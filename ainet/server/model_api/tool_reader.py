"""Reads the calls of tools out of an answer while it grows."""

from __future__ import annotations

import ast
import contextlib
import enum
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ainet.api.tools import IDENTIFIER, INDEX

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ainet.api.tools import ElementsForm, Tool, ToolForm, ValueForm

#: What stands in the texts of a form besides words: a number, an identifier, and spaces, which may be others.
_PARTS = re.compile(f"({re.escape(INDEX)}|{re.escape(IDENTIFIER)}|\\s+)")
LONGEST = 128  # characters of a name
_NAME = re.compile(rf"[^\s\"'<>\[\](){{}}|]{{1,{LONGEST}}}")
_SPACES = re.compile(r"\s+")
_WORD = re.compile(r"[-+.\w]+")
#: What matters of JSON to find its end.
_JSON = re.compile(r'"(?:[^"\\]|\\.)*("|\\?\Z)|[{}\[\]]', re.DOTALL)


class Open(enum.Enum):
    """Why something is not there: the text may still go on with it, or has something else in its place."""

    MORE = enum.auto()
    NOT = enum.auto()


MORE, NOT = Open.MORE, Open.NOT


class Matched(NamedTuple):
    """Where a text of a form ends, and the identifier in it."""

    end: int
    identifier: str = ""
    has_some: bool = True  # arguments


@dataclass
class ReadCall:
    """A call as far as it is read: the model's identifier of it, if there is one, and its arguments as JSON."""

    name: str
    id: str = ""
    arguments: str = ""


@dataclass
class Read:
    """What is certain of an answer: what is said beside calls, and the calls."""

    said: str = ""
    calls: list[ReadCall] = field(default_factory=list)


class ToolReader:
    """Divides an answer into what is said and what is called.

    Parameters
    ----------
    form
        How the model writes calls.
    tools
        What it may call: which arguments are strings is said by their schemas alone, where all are written as they are.
    """

    def __init__(self, form: ToolForm, tools: Sequence[Tool]) -> None:
        self._form = form
        self._is_named_behind = IDENTIFIER in form.end
        self._schemas = {tool.name: _properties(tool) for tool in tools}
        self._text, self._is_whole = "", False
        #: What is read for good, where that ends, and whether that is behind the arguments of a call.
        self._read, self._end, self._is_behind = Read(), 0, False
        #: How far a JSON value is looked through: where it begins, where its next part does, and how deep that is.
        self._scanned = (0, 0, 0)

    def add(self, text: str) -> Read:
        """Return all that is certain with the next piece of the answer."""
        self._text += text
        return self._parse()

    def finish(self) -> Read:
        """Return all there is, when the answer has ended."""
        self._is_whole = True
        return self._parse()

    def _parse(self) -> Read:
        while True:
            found = self._next_call() if self._is_behind else self._first_call()
            if found is not None:
                return found

    def _first_call(self) -> Read | None:
        """Read what is said, and the call behind it; returns what is certain, or None where there is more to read."""
        said, begin = self._before_call()
        if begin is None:
            return self._with(said)
        first = self._match(self._form.first, begin)
        call, end = self._call(first) if isinstance(first, Matched) else (None, first)
        if end is MORE and not self._is_whole:
            return self._with(said, call)
        if end is MORE and call is None:
            return self._with(self._text[self._end :])
        if call is None:  # no call after all
            end = begin + len(self._form.trigger)
            said = self._text[self._end : end]
        self._keep(said, call, end)
        return None

    def _next_call(self) -> Read | None:
        """Read what is behind a call: another one, or the end of calls. See `_first_call`."""
        begin, call = self._end, None
        more = self._match(self._form.more, begin) if self._form.more is not None else NOT
        last = self._match(self._form.end, begin)
        if not self._is_whole and (more is MORE or (more is NOT and last is MORE)):
            return self._with("")
        end: int | Open = NOT
        if isinstance(more, Matched):
            call, end = self._call(more)
            if end is MORE and not self._is_whole:
                return self._with("", call)
        if call is not None:
            self._identify(more)
            self._keep("", call, end)
            return None
        self._identify(last)
        self._is_behind = False
        self._end = last.end if isinstance(last, Matched) else begin
        return None

    def _with(self, said: str, call: ReadCall | None = None) -> Read:
        return Read(self._read.said + said, [*self._read.calls, *([call] if call is not None else [])])

    def _keep(self, said: str, call: ReadCall | None, end: int | Open) -> None:
        """Take for good what was read up to here. A call that is no whole one ends where the text does."""
        self._read = self._with(said, call)
        self._is_behind = call is not None and isinstance(end, int)
        self._end = end if isinstance(end, int) else len(self._text)

    def _identify(self, found: Matched | Open) -> None:
        """Take the identifier behind a call for its own."""
        if isinstance(found, Matched) and self._is_named_behind and self._read.calls:
            self._read.calls[-1].id = self._read.calls[-1].id or found.identifier

    def _before_call(self) -> tuple[str, int | None]:
        """Return what is said before the next call, and where that begins, if it does."""
        trigger, rest = self._form.trigger, self._text[self._end :]
        is_first = not self._read.calls and not self._read.said
        if trigger[0] == "{":
            begin = len(rest) - len(rest.lstrip())
            if is_first and rest.startswith(trigger, begin):
                return "", self._end + begin
            if is_first and not self._is_whole and trigger.startswith(rest[begin:]):
                return "", None
            return rest if self._is_whole else rest.rstrip(), None
        place = rest.find(trigger)
        if place >= 0:
            return rest[:place].rstrip(), self._end + place
        if self._is_whole:
            return (rest if not self._read.calls or rest.strip() else ""), None
        return rest[: len(rest) - _overlap(rest, trigger)].rstrip(), None

    def _call(self, behind: Matched) -> tuple[ReadCall | None, int | Open]:
        """Read a call whose name begins here: return it once its name is certain, and where its arguments end."""
        name = _NAME.match(self._text, behind.end)
        if name is None:
            return None, MORE if behind.end == len(self._text) else NOT
        for end in self._ends(name, self._schemas):
            found = self._first_argument(end)
            if found is MORE:
                return None, MORE
            if isinstance(found, Matched):
                break
        else:
            return None, MORE if name.end() == len(self._text) and name.end() - name.start() < LONGEST else NOT
        identifier = "" if self._is_named_behind else behind.identifier
        call = ReadCall(self._text[name.start() : end], identifier or found.identifier)
        if self._form.elements is not None:
            return call, self._elements(call, self._form.elements, found.end, has_some=found.has_some)
        stop = self._json_end(found.end)
        call.arguments = self._text[found.end : stop if stop is not None else len(self._text)]
        return call, stop if stop is not None else MORE

    def _first_argument(self, begin: int) -> Matched | Open:
        """Return where the arguments begin of a call whose name ends here."""
        found = self._match(self._form.arguments, begin)
        if self._form.elements is None:
            if not isinstance(found, Matched):
                return found
            at = found.end + len(_spaces(self._text, found.end))
            if self._text.startswith("{", at):
                return found._replace(end=at)
            return MORE if at == len(self._text) else NOT
        nothing = self._match(self._form.elements.none, begin)
        behind = self._behind(nothing.end) if isinstance(nothing, Matched) else nothing
        if isinstance(nothing, Matched) and isinstance(behind, Matched):
            return nothing._replace(has_some=False)
        return MORE if MORE in (found, behind) else found

    def _behind(self, begin: int) -> Matched | Open:
        """Return whether a call ends here."""
        found = [self._match(one, begin) for one in (self._form.end, self._form.more) if one is not None]
        whole = next((one for one in found if isinstance(one, Matched)), None)
        return whole or (MORE if MORE in found else NOT)

    def _elements(self, call: ReadCall, form: ElementsForm, begin: int, *, has_some: bool) -> int | Open:
        """Read arguments that stand one behind the other."""
        call.arguments = "{"
        end = begin
        while has_some:
            key = _NAME.match(self._text, end)
            if key is None:
                return MORE if end == len(self._text) else NOT
            value = self._value(call, form, key)
            if not isinstance(value, int):
                return value
            more = self._match(form.more, value)
            behind = self._behind(value)
            if not isinstance(more, Matched):
                if not isinstance(behind, Matched):
                    return MORE if MORE in (more, behind) else NOT
                end = value
                break
            end = more.end
            call.arguments += ", "
        call.arguments += "}"
        return end

    def _value(self, call: ReadCall, form: ElementsForm, key: re.Match[str]) -> int | Open:
        """Read an argument's value; returns where what stands around it ends."""
        is_text = self._is_text(call.name, key[0])
        kinds = [form.text, form.other] if is_text else [form.other, form.text]
        if form.text.before != form.other.before:
            kinds.sort(key=lambda one: -len(one.before))  # the longer one says which it is
        for end in self._ends(key, self._schemas.get(call.name, {})):
            for kind in kinds:
                found = self._match(kind.before, end, is_exact=True)
                if found == MORE:
                    return MORE
                if isinstance(found, Matched):
                    name = self._text[key.start() : end]
                    if form.text.before == form.other.before:
                        is_text = self._is_text(call.name, name)
                    else:
                        is_text = kind == form.text
                    return self._read_value(call, name, kind, found.end, is_text=is_text)
        return NOT

    def _read_value(self, call: ReadCall, key: str, kind: ValueForm, begin: int, *, is_text: bool) -> int | Open:
        before = f"{json.dumps(key, ensure_ascii=False)}: "
        stop = None
        if not is_text:
            stop = self._value_end(begin)
            found = self._match(kind.behind, stop, is_exact=True) if stop is not None else MORE
            if found is MORE and not self._is_whole:
                return MORE
            if not isinstance(found, Matched):
                stop = None
        if stop is None and kind.behind:
            place = self._text.find(kind.behind, begin)
            stop = place if place >= 0 else None
        if stop is None:
            if is_text:
                rest = self._text[begin:]
                certain = rest[: len(rest) - _overlap(rest, kind.behind)]
                call.arguments += before + json.dumps(certain, ensure_ascii=False)[:-1]
            return MORE
        call.arguments += before + _as_json(self._text[begin:stop], is_text=is_text)
        return stop + len(kind.behind)

    def _value_end(self, begin: int) -> int | None:
        """Return where any JSON value ends, or a word of Python's; None where it goes on, or may."""
        if self._text[begin : begin + 1] in ('"', "{", "["):
            return self._json_end(begin)
        word = _WORD.match(self._text, begin)
        if word is None:
            return begin if begin < len(self._text) else None
        return word.end() if word.end() < len(self._text) or self._is_whole else None

    def _json_end(self, begin: int) -> int | None:
        """Return where a JSON value ends that is an object, a list or a string; None where it goes on."""
        at, depth = self._scanned[1:] if self._scanned[0] == begin and self._scanned[1] > begin else (begin, 0)
        for found in _JSON.finditer(self._text, at):
            sign = found[0]
            if sign[0] == '"':
                if found[1] != '"':
                    return None  # it goes on
            else:
                depth += 1 if sign in "{[" else -1
            self._scanned = (begin, found.end(), depth)
            if depth == 0:
                self._scanned = (0, 0, 0)
                return found.end()
        return None

    def _ends(self, name: re.Match[str], known: Collection[str]) -> list[int]:
        """Return where a name may end: what follows it may begin with a sign that names may have. Known ones first."""
        ends = range(name.start() + 1, name.end() + 1)
        return sorted(ends, key=lambda end: (self._text[name.start() : end] not in known, end))

    def _is_text(self, name: str, key: str) -> bool:
        schema = self._schemas.get(name, {}).get(key)
        if not isinstance(schema, dict):
            return True
        kind = schema.get("type")
        if kind is None:
            return not any(word in schema for word in ("properties", "items", "$ref", "anyOf", "oneOf", "allOf"))
        return kind == "string" or (isinstance(kind, list) and "string" in kind)

    def _match(self, form: str, begin: int, *, is_exact: bool = False) -> Matched | Open:
        """Return where a text of the form ends that begins here; spaces may be others, unless they may be a value's."""
        at, identifier = begin, ""
        for part in filter(None, [form] if is_exact else _PARTS.split(form)):
            if part.isspace() and not is_exact:
                at += len(_spaces(self._text, at))
            elif part in (INDEX, IDENTIFIER):
                word = re.compile(r"\d+" if part == INDEX else r"[A-Za-z0-9_-]+").match(self._text, at)
                if word is None:
                    return MORE if at == len(self._text) else NOT
                identifier, at = word[0] if part == IDENTIFIER else identifier, word.end()
            elif self._text.startswith(part, at):
                at += len(part)
            else:
                rest = self._text[at:]
                return MORE if part.startswith(rest) else NOT
        return Matched(at, identifier)


def _spaces(text: str, begin: int) -> str:
    found = _SPACES.match(text, begin)
    return found[0] if found is not None else ""


def _properties(tool: Tool) -> dict[str, object]:
    found = tool.parameters.get("properties")
    return found if isinstance(found, dict) else {}


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _as_json(text: str, *, is_text: bool) -> str:
    """Return a value as JSON: as it is where it is JSON, or what Python writes, and no string."""
    if not is_text:
        read = {"True": "true", "False": "false", "None": "null"}.get(text.strip(), text.strip())
        if _is_json(read):
            return read
        with contextlib.suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return json.dumps(ast.literal_eval(read), ensure_ascii=False, allow_nan=False)
    return json.dumps(text, ensure_ascii=False)


def _overlap(text: str, wanted: str) -> int:
    """Return the length of the longest end of a text with which another one begins."""
    return next((n for n in range(min(len(text), len(wanted) - 1), 0, -1) if text.endswith(wanted[:n])), 0)
