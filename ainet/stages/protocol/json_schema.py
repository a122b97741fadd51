"""JSON schemas that an answer follows: what llguidance can promise of them, and what is refused, by name and place.

llguidance turns a schema into a grammar, and the grammar into the set of tokens that may follow; it ignores nothing in
silence. What it promises without keeping it is corrected here: `format` of dates, and `minProperties` where a key may
come twice. https://github.com/guidance-ai/llguidance, https://json-schema.org/draft/2020-12/schema
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import msgspec

from ainet.errors import UsageError
from ainet.stages.protocol.grammar import MAX_GRAMMAR
from ainet.stages.protocol.patterns import agreed

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Keywords whose values are schemas, lists of them, and schemas by name.
_SCHEMAS = (
    *("additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not"),
    *("propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")

_YEAR = r"(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP_YEAR = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DAY = (
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = rf"(?:{_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#: What stands in the place of a `format`: nothing where it asks nothing of a text. The last two are OpenAPI's.
_FORMATS: dict[str, dict[str, Any]] = {
    "date": {"pattern": f"^{_DATE}$"},
    "date-time": {"pattern": f"^{_DATE}T{_TIME}$"},
    "time": {"pattern": f"^{_TIME}$"},
    "hostname": {"format": "hostname", "maxLength": 253},
    **{name: {} for name in ("binary", "directory-path", "file-path", "password", "path")},
    "int32": {"minimum": -(2**31), "maximum": 2**31 - 1},
    "int64": {"minimum": -(2**63), "maximum": 2**63 - 1},
}
#: Within a value there may be a space, or a line's end and an indentation: enough to be read, too little to stall.
_OPTIONS: dict[str, Any] = {"whitespace_pattern": r"( |\n( {0,40}|\t{0,10}))", "lenient": False, "coerce_one_of": False}
#: Beginnings of what llguidance says of valid schemas, and the keyword that it is said of.
_UNABLE = {
    "Unknown format": "format",
    "oneOf constraints": "oneOf",
    "lookarounds not supported": "pattern",
    "regex parse error": "pattern",
    "Unable to determine if regex": "pattern",
    "patternProperty regexes": "patternProperties",
    "min/maxProperties only": "minProperties",
}
_COMBINING = ("$ref", "allOf", "anyOf", "oneOf")
_MAX_LOOSENED, _MAX_PARTS = 100, 1000


class Refusal(NamedTuple):
    """What is wrong with a schema: keywords (none: the whole), the schema that has them (a JSON pointer), and why."""

    keywords: list[str]
    place: str
    why: str
    #: Whether the schema is a valid one, of which a grammar cannot promise this.
    is_valid: bool

    def words(self) -> str:
        """Return the message."""
        names = " and ".join(f"`{name}`" for name in self.keywords)
        if not self.is_valid:
            return f"The JSON schema is not valid{' in ' + names if names else ''} at {self.place}: {self.why}."
        return (
            f"The JSON schema asks for {names} at {self.place}, which no grammar can promise: {self.why}. "
            "Leave it out, or ask with --json-schema-loose (json_schema_loose=True), which passes it over."
        )


def checked_schema(schema: object, *, loose: bool = False) -> tuple[str, list[str]]:
    """Return a schema as the JSON that a pipeline is asked with, and what was passed over, in words.

    Parameters
    ----------
    schema
        As it was read from JSON.
    loose
        Whether to pass over what cannot be promised.

    Raises
    ------
    UsageError
        If it is no schema, or asks for what cannot be promised: the message names the keyword and its place.
    """
    try:
        text = msgspec.json.encode(schema).decode()
        wanted = json.loads(text)
    except UnicodeEncodeError as exc:
        raise UsageError(f"The JSON schema is not valid Unicode: {exc.reason}.") from exc
    except RecursionError as exc:
        raise UsageError("The JSON schema is nested too deeply.") from exc
    passed: list[str] = []
    while (refusal := _refusal(wanted)) is not None:
        if not (loose and refusal.is_valid and refusal.keywords) or len(passed) >= _MAX_LOOSENED:
            raise UsageError(refusal.words())
        owner = _at(wanted, refusal.place)
        for name in refusal.keywords:
            value = owner.pop(name)
            if name == "oneOf":
                owner.setdefault("allOf", []).append({"anyOf": value})
            passed.append(f"{name} at {refusal.place}")
    return json.dumps(wanted, ensure_ascii=False, separators=(",", ":")), passed


def schema_grammar(schema: str) -> str:
    """Return llguidance's grammar of a schema (as JSON); raises `UsageError` as `checked_schema` does."""
    try:
        wanted = json.loads(schema)
    except ValueError as exc:
        raise UsageError(f"The JSON schema is not JSON: {exc}.") from exc
    except RecursionError as exc:
        raise UsageError("The JSON schema is nested too deeply.") from exc
    if (refusal := _refusal(wanted)) is not None:
        raise UsageError(refusal.words())
    kept = _kept(wanted)
    closed = _closed(kept)
    return _grammar(kept if _error(closed) else closed)


def _refusal(schema: Any) -> Refusal | None:
    """Return the first thing that is wrong with a schema."""
    if not isinstance(schema, dict | bool):
        return Refusal([], "#", f"a schema is an object, not {json.dumps(schema)[:40]}", is_valid=False)
    size = len(json.dumps(schema, ensure_ascii=False).encode(errors="replace"))
    if size > MAX_GRAMMAR:
        return Refusal([], "#", f"it has {size} bytes; at most {MAX_GRAMMAR} are allowed", is_valid=False)
    if schema is False:
        return Refusal([], "#", "nothing satisfies it", is_valid=False)
    kept = _kept(schema)
    for place, part in _parts(kept):
        least = part.get("minProperties")
        # Keys that the schema does not name may come twice, and are then one property.
        names = part.get("required")
        if isinstance(least, int) and least > 1 + len(set(map(str, names)) if isinstance(names, list) else ()):
            return Refusal(["minProperties"], place, "the same key may come again", is_valid=True)
    error = _error(kept)
    return _located(kept, error) if error else None


def _located(schema: Any, error: str) -> Refusal:
    """Return which part of a schema llguidance refuses, and for what: the innermost that fails in the same way."""
    if match := re.match(r"Unimplemented keys: \[(.*)\]", error):
        names, why = re.findall(r'"([^"]+)"', match[1]), "it depends on more than what came before"
    else:
        names = [name for beginning, name in _UNABLE.items() if error.startswith(beginning)]
        why = re.split(r"error: ", error)[-1].splitlines()[0].split(";")[0].strip().rstrip(".")
    is_valid = bool(names)
    if not names:
        names = re.findall(r"'([A-Za-z]+)'", error)[:1] or (["type"] if "Invalid type" in error else [])
    parts = itertools.islice(_parts(schema), _MAX_PARTS)
    shared = {key: schema[key] for key in ("$defs", "definitions") if isinstance(schema, dict) and key in schema}
    place, part = "#", schema if isinstance(schema, dict) else {}
    for here, inner in parts:
        if len(here) > len(place) and "$ref" not in inner and _error({**shared, **inner}) == error:
            place, part = here, inner
    if names == ["minProperties"] and "minProperties" not in part:
        names = ["maxProperties"]
    if names == ["pattern"] and "pattern" not in part and "patternProperties" in part:
        names = ["patternProperties"]
    return Refusal([name for name in names if name in part], place, why, is_valid and set(names) <= set(part))


def _error(schema: Any) -> str:
    """Return what llguidance says against a schema, without its own frame; nothing where it takes it."""
    from llguidance import LLMatcher

    try:
        is_error, messages = LLMatcher.validate_grammar_with_warnings(_grammar(schema))
    except ValueError as exc:
        return str(exc)
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":  # of Rust
            raise
        return f"llguidance failed: {exc}"
    # Where it was met follows, as the schema's own address.
    return messages[0].partition("\n  while processing")[0].strip() if is_error else ""


def _grammar(schema: Any) -> str:
    from llguidance import LLMatcher

    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    schema = copy.deepcopy(schema)
    for _, part in list(_parts(schema)):
        if isinstance(pattern := part.get("pattern"), str):
            part["pattern"] = agreed(pattern)
        if isinstance(named := part.get("patternProperties"), dict):
            part["patternProperties"] = {agreed(pattern): one for pattern, one in named.items()}
    return str(LLMatcher.grammar_from_json_schema(schema, overrides=_OPTIONS))  # type: ignore[arg-type]


def _kept(schema: Any) -> Any:
    """Return a copy of a schema that says the same in words that llguidance keeps."""
    schema = copy.deepcopy(schema)
    for _, part in _parts(schema):
        part.pop("x-guidance", None)  # llguidance's own options
        if part.get("uniqueItems") is False:
            del part["uniqueItems"]
        names, least = part.get("required"), part.get("minProperties")
        if isinstance(names, list) and isinstance(least, int) and least <= len(set(map(str, names))):
            del part["minProperties"]
        _keep_format(part)
    return schema


def _closed(schema: Any) -> Any:
    """Return a schema whose objects have no keys but those that it names: allowed ones lead small models astray.

    What is put together from several schemas stays open, since one would forbid the keys of the others.
    """
    schema = copy.deepcopy(schema)
    together: set[int] = set()
    for _, part in _parts(schema):
        for one in part["allOf"] if isinstance(part.get("allOf"), list) else []:
            inner = one
            while isinstance(inner, dict) and id(inner) not in together:
                together.add(id(inner))
                inner = _referred(schema, inner.get("$ref"))
    for _, part in _parts(schema):
        is_alone = part.keys().isdisjoint(_COMBINING) and id(part) not in together
        if is_alone and isinstance(part.get("properties"), dict) and "patternProperties" not in part:
            part.setdefault("additionalProperties", False)
    return schema


def _referred(schema: Any, reference: object) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return schema if reference == "#" else None
    try:
        return _at(schema, unquote(reference))
    except (KeyError, IndexError, ValueError, TypeError):
        return None


def _keep_format(part: dict[str, Any]) -> None:
    name, kinds = part.get("format"), part.get("type", "string")
    if not isinstance(name, str):
        return
    is_text = "string" in (kinds if isinstance(kinds, list) else [kinds])
    instead = _FORMATS.get(name)
    if instead is None or is_text == ("minimum" in instead):
        if not is_text:
            del part["format"]  # it asks something of texts alone
    elif instead.items() - part.items():
        del part["format"]
        others = part.get("allOf")
        part["allOf"] = [*(others if isinstance(others, list) else []), dict(instead)]
    elif not instead:
        del part["format"]


def _parts(schema: Any, place: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all schemas within a schema, and itself, with their places (JSON pointers), outer ones first."""
    waiting: list[tuple[str, Any]] = [(place, schema)]
    while waiting:
        here, part = waiting.pop()
        if not isinstance(part, dict):
            continue
        yield here, part
        inner = [(f"{here}/{key}", part[key]) for key in _SCHEMAS if isinstance(part.get(key), dict)]
        for key in _LISTS:
            if isinstance(part.get(key), list):
                inner += [(f"{here}/{key}/{n}", one) for n, one in enumerate(part[key])]
        for key in _NAMED:
            if isinstance(part.get(key), dict):
                inner += [(f"{here}/{key}/{_pointed(name)}", one) for name, one in part[key].items()]
        waiting += reversed(inner)


def _pointed(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _at(schema: Any, place: str) -> Any:
    for step in place.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        schema = schema[int(name)] if isinstance(schema, list) else schema[name]
    return schema
