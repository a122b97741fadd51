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
_NAME = re.compile(r"[^\s\"'<>\[\](){}|]+")
_SPACES = re.compile(r"\s+")
_WORD = re.compile(r"[-+.\w]+")
#: What matters of JSON to find its end.
_JSON = re.compile(r'"(?:[^"\\]|\\.)*"|"(?:[^"\\]|\\.)*\\?\Z|[{}\[\]]', re.DOTALL)


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
        self._schemas = {tool.name: tool.parameters.get("properties", {}) for tool in tools}
        self._is_named_behind = IDENTIFIER in form.end
        self._text = ""
        #: What is read for good, and where that ends.
        self._read, self._end = Read(), 0

    def add(self, text: str) -> Read:
        """Return all that is certain with the next piece of the answer."""
        self._text += text
        return self._parse(is_whole=False)

    def finish(self) -> Read:
        """Return all there is, when the answer has ended."""
        return self._parse(is_whole=True)

    def _parse(self, *, is_whole: bool) -> Read:
        while True:
            said, begin = self._before_call(is_whole=is_whole)
            read = Read(self._read.said + said, list(self._read.calls))
            if begin is None:
                return read
            end = self._calls(read, begin, is_whole=is_whole)
            if end is None:
                return read
            self._read, self._end = read, end

    def _before_call(self, *, is_whole: bool) -> tuple[str, int | None]:
        """Return what is said before the next call, and where that begins, if it does."""
        trigger, rest = self._form.trigger, self._text[self._end :]
        is_first = not self._read.calls and not self._read.said
        if not trigger:
            begins = [self._form.first + name + self._form.arguments for name in self._schemas] if is_first else []
            if any(map(rest.startswith, begins)):
                return "", self._end
            if not is_whole and any(begin.startswith(rest) for begin in begins):
                return "", None
            return rest if is_whole else rest.rstrip(), None
        if trigger[0] == "{":
            begin = len(rest) - len(rest.lstrip())
            if is_first and rest.startswith(trigger, begin):
                return "", self._end + begin
            if is_first and not is_whole and trigger.startswith(rest[begin:]):
                return "", None
            return rest if is_whole else rest.rstrip(), None
        place = rest.find(trigger)
        if place >= 0:
            return rest[:place].rstrip(), self._end + place
        if is_whole:
            return (rest if not self._read.calls or rest.strip() else ""), None
        return rest[: len(rest) - _overlap(rest, trigger)].rstrip(), None

    def _calls(self, read: Read, begin: int, *, is_whole: bool) -> int | None:
        """Read calls that follow each other; returns where they end, or None where they go on."""
        form = self._form
        found = self._match(form.first, begin)
        while isinstance(found, Matched):
            name = _NAME.match(self._text, found.end)
            if name is None:
                found = MORE if found.end == len(self._text) else NOT
                break
            call = ReadCall(name[0], "" if self._is_named_behind else found.identifier)
            end = self._arguments(read, call, name)
            if not isinstance(end, int):
                found = end
                break
            found = self._match(form.more, end) if form.more is not None else NOT
            last = self._match(form.end, end)
            if not is_whole and (found == MORE or (not isinstance(found, Matched) and last == MORE)):
                return None
            if not isinstance(found, Matched):
                if isinstance(last, Matched):
                    call.id = call.id or last.identifier
                    return last.end
                return end
            call.id = call.id or (found.identifier if self._is_named_behind else "")
        if found == MORE and not is_whole:
            return None
        if found == MORE:
            return len(self._text)
        # No call after all.
        read.said += self._text[begin : begin + len(form.trigger)]
        return begin + len(form.trigger)

    def _arguments(self, read: Read, call: ReadCall, name: re.Match[str]) -> int | Open:
        """Read a call's arguments; returns where they end. The call counts as soon as its name is certain."""
        for end in self._ends(name, self._schemas):
            found = self._first_argument(end)
            if found is MORE:
                return MORE
            if isinstance(found, Matched):
                break
        else:
            return NOT
        call.name, call.id = self._text[name.start() : end], call.id or found.identifier
        read.calls.append(call)
        if self._form.elements is not None:
            return self._elements(call, self._form.elements, found.end, has_some=found.has_some)
        stop = _json_end(self._text, found.end)
        call.arguments = self._text[found.end : stop if stop is not None else len(self._text)]
        return stop if stop is not None else MORE

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
        stop = None if is_text else _value_end(self._text, begin)
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
        found = self._match(kind.behind, stop, is_exact=True)
        return found.end if isinstance(found, Matched) else MORE

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


def _json_end(text: str, begin: int) -> int | None:
    """Return where a JSON value ends that is an object, a list or a string; None where it goes on."""
    depth = 0
    for found in _JSON.finditer(text, begin):
        sign = found[0]
        if sign[0] == '"':
            if not (len(sign) > 1 and sign[-1] == '"' and _is_closed(sign)):
                return None
        else:
            depth += 1 if sign in "{[" else -1
        if depth == 0:
            return found.end()
    return None


def _value_end(text: str, begin: int) -> int | None:
    """Return where any JSON value ends, or a word of Python's; None where it goes on, or may."""
    if text[begin : begin + 1] in ('"', "{", "["):
        end = _json_end(text, begin)
        return end if end is None or _is_json(text[begin:end]) else None
    word = _WORD.match(text, begin)
    return word.end() if word is not None and word.end() < len(text) else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _is_closed(text: str) -> bool:
    """Whether the last quotation mark of a string ends it."""
    return (len(text) - 1 - len(text[:-1].rstrip("\\"))) % 2 == 0


def _as_json(text: str, *, is_text: bool) -> str:
    """Return a value as JSON: as it is where it is JSON, or what Python writes, and no string."""
    if not is_text:
        read = {"True": "true", "False": "false", "None": "null"}.get(text.strip(), text.strip())
        if _is_json(read):
            return read
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return json.dumps(ast.literal_eval(read), ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False)


def _overlap(text: str, wanted: str) -> int:
    """Return the length of the longest end of a text with which another one begins."""
    return next((n for n in range(min(len(text), len(wanted) - 1), 0, -1) if text.endswith(wanted[:n])), 0)
