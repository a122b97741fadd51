"""JSON schemas: what an answer follows it follows wholly, and what cannot be promised is refused by name and place."""

from __future__ import annotations

import json
import random

import jsonschema
import msgspec
import numpy as np
import pytest
from pydantic import BaseModel, Field
from support.api_schemas import SCHEMAS
from support.effort import examples
from support.json_schemas import SUITE, may_say, table, verdicts

from ainet.errors import UsageError
from ainet.stages.llama.json_mask import JsonMask
from ainet.stages.llama.llama import Llama
from ainet.stages.llama.vocabulary import Vocabulary
from ainet.stages.protocol.json_schema import checked_schema, schema_grammar

TEXT = {"type": "string"}
NODE = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
            "required": ["v", "next"],
        }
    },
}
FOLLOWED = [
    # Control characters within texts
    (TEXT, ['"a\\nb"', '"a\\tb"', '"\N{GRINNING FACE}"'], ['"a\nb"', '"a\tb"', '"\x00"', '"\x1f"', '"\\ud83d"']),
    ({"enum": ["a\nb", 'q"\\']}, ['"a\\nb"', '"q\\"\\\\"'], ['"a\nb"', '"q"']),
    # References
    (NODE, ['{"v":1,"next":{"v":2,"next":null}}'], ['{"v":1}', '{"v":1,"next":{"v":2}}', '{"v":1,"next":{"v":"x"}}']),
    (
        {"type": "object", "properties": {"a": {"type": "integer"}, "b~/c": {"$ref": "#/properties/a"}}},
        ['{"b~/c":1}'],
        ['{"b~/c":"x"}'],
    ),
    ({"$ref": "#/$defs/b~0c~1d%25", "$defs": {"b~c/d%": {"type": "null"}}}, ["null"], ["1"]),
    ({"type": "array", "items": {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}}, ["[1,[2,[]]]"], ['[1,["x"]]', "1"]),
    ({"$ref": "#/prefixItems/1", "prefixItems": [True, {"type": "boolean"}]}, ["true"], ["1"]),
    ({"definitions": {"a": {"$ref": "#/definitions/b"}, "b": TEXT}, "$ref": "#/definitions/a"}, ['"x"'], ["1"]),
    # Bounds of numbers
    (
        {"type": "integer", "minimum": -5, "exclusiveMaximum": 3},
        ["-5", "0", "2"],
        ["-6", "3", "-50", "20", "1.5", "01"],
    ),
    ({"type": "integer", "exclusiveMinimum": -12, "maximum": -3}, ["-11", "-3"], ["-12", "-2", "0", "3", "-110"]),
    ({"type": "integer", "minimum": 95, "maximum": 1005}, ["95", "100", "999", "1005"], ["94", "1006", "9", "1010"]),
    ({"type": "integer", "minimum": 1.5, "exclusiveMaximum": 3.0}, ["2"], ["1", "3"]),
    (
        {"type": "number", "minimum": -0.5, "exclusiveMaximum": 1},
        ["-0.5", "0.999", "0"],
        ["-0.51", "1", "1.0", "1e1", "-1"],
    ),
    ({"type": "integer", "multipleOf": 3}, ["0", "9", "12"], ["10", "1"]),
    ({"type": "integer", "format": "int32"}, ["2147483647", "-2147483648"], ["2147483648"]),
    # Patterns
    ({**TEXT, "pattern": "^a$|^b$"}, ['"a"', '"b"'], ['"ab"', '"xa"', '""']),
    ({**TEXT, "pattern": r"^\d{2,3}$"}, ['"12"', '"123"'], ['"1"', '"1234"', '"x1"', '"\u0661\u0662"']),
    ({**TEXT, "pattern": r"^[\w.]+@\w+\.(com|org)$"}, ['"a.b@c.org"'], ['"a@b.net"', '"a@bxorg"', '"a@b.org "']),
    ({**TEXT, "pattern": r"^(?:ab|c\sd){1,2}$"}, ['"ab"', '"abc d"', '"c\\td"'], ['"abab "', '"ababab"', '"c\td"']),
    ({**TEXT, "pattern": "b"}, ['"b"', '"abc"'], ['"ac"']),
    ({**TEXT, "pattern": r"^[^\"\\]\\$"}, ['"x\\\\"'], ['"\\"\\\\"', '"x"']),
    ({**TEXT, "pattern": "^.{2}$", "maxLength": 5}, ['"\u00e9\N{GRINNING FACE}"', '"\\"\\\\"'], ['"abc"', '"a"']),
    # Formats
    (
        {**TEXT, "format": "date"},
        ['"2024-02-29"', '"2000-02-29"', '"2023-12-31"'],
        ['"2023-02-29"', '"1900-02-29"', '"2024-04-31"', '"0000-01-01"'],
    ),
    (
        {**TEXT, "format": "date-time"},
        ['"2024-02-29T23:59:59.5+01:00"', '"2024-01-01T00:00:00Z"'],
        ['"2024-01-01T24:00:00Z"', '"2023-02-29T00:00:00Z"', '"2024-01-01"'],
    ),
    ({**TEXT, "format": "password"}, ['"x"'], ["1"]),
    ({"type": "number", "format": "double"}, ["1.5"], ['"x"']),
    # Keys
    ({"type": "object", "properties": {"a": TEXT}}, ['{"a":"x"}', "{}"], ['{"a":"x","a":"y"}', '{"b":1}']),
    ({"type": "object", "properties": {"a": TEXT}, "additionalProperties": True}, ['{"a":"x","b":1}'], ['{"a":1}']),
    (
        {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
        ['{"x1":1}'],
        ['{"x1":"a"}', '{"y":1}'],
    ),
    (
        {
            "allOf": [{"properties": {"a": TEXT}, "required": ["a"]}, {"properties": {"b": TEXT}, "required": ["b"]}],
            "type": "object",
        },
        ['{"a":"x","b":"y"}'],
        ['{"a":"x"}'],
    ),
    (
        {"type": "object", "required": ["a", "b"], "minProperties": 2, "additionalProperties": TEXT},
        ['{"a":"x","b":"y"}'],
        ['{"a":"x"}'],
    ),
    # Lists
    (
        {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 2, "uniqueItems": False},
        ['["a"]', '["a", "b"]'],
        ["[]", '["a","b","c"]'],
    ),
    ({"type": "array", "prefixItems": [TEXT], "items": {"type": "integer"}}, ['["a",1,2]'], ["[1]", '["a","b"]']),
]


@pytest.mark.parametrize(("schema", "right", "wrong"), FOLLOWED)
def test_an_answer_follows_the_schema(schema, right, wrong):
    for text in right:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    assert {text: may_say(schema, text) for text in right} == dict.fromkeys(right, True)
    assert {text: may_say(schema, text) for text in wrong} == dict.fromkeys(wrong, False)


class Address(BaseModel):
    street: str
    zip: str = Field(pattern=r"^\d{5}$")


class Person(BaseModel):
    name: str
    age: int = Field(ge=0, lt=150)
    home: Address
    others: list[Address] = []
    friends: list[Person] = []
    boss: Person | None = None


def test_what_pydantic_prints_for_nested_and_recursive_models_is_followed():
    home = {"street": "x", "zip": "12345"}
    inner = {"name": "b", "age": 0, "home": home, "others": [home], "friends": [], "boss": None}
    value = {"name": "a", "age": 149, "home": home, "others": [], "friends": [inner], "boss": inner}
    schema = Person.model_json_schema()
    assert may_say(schema, json.dumps(value))
    assert Person.model_validate(value)
    assert not may_say(schema, json.dumps({**value, "age": 150}))
    assert not may_say(schema, json.dumps({**value, "friends": [{**inner, "home": {**home, "zip": "1234"}}]}))


LIST = {"type": "array", "items": TEXT}
REFUSED = [
    ({"type": "object", "properties": {"tags": {**LIST, "uniqueItems": True}}}, "uniqueItems", "#/properties/tags"),
    ({**LIST, "contains": {"const": "x"}}, "contains", "#"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {**TEXT, "pattern": "^(?=a)b"}}}, "pattern", "#/$defs/a"),
    ({"type": "array", "items": {"anyOf": [TEXT, {**TEXT, "pattern": r"(a)\1"}]}}, "pattern", "#/items/anyOf/1"),
    ({"type": "array", "prefixItems": [TEXT, {**TEXT, "format": "regex"}]}, "format", "#/prefixItems/1"),
    ({"type": "object", "minProperties": 3, "additionalProperties": TEXT}, "minProperties", "#"),
    ({"type": "object", "minProperties": 1, "properties": {"a": TEXT, "b": TEXT}}, "minProperties", "#"),
    ({"type": "object", "maxProperties": 1, "properties": {"a": TEXT, "b": TEXT}}, "maxProperties", "#"),
    ({"type": "object", "properties": {"a/b": {"not": TEXT}}}, "not", "#/properties/a~1b"),
    ({"type": "object", "properties": {"a": TEXT}, "dependentRequired": {"a": ["b"]}}, "dependentRequired", "#"),
    ({"oneOf": [{"minimum": 3, "type": "number"}, {"type": "integer"}]}, "oneOf", "#"),
    ({"type": "object", "patternProperties": {"^x": TEXT, "y$": LIST}}, "patternProperties", "#"),
    ({"type": "object", "propertyNames": {"pattern": "^a"}}, "propertyNames", "#"),
    ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties", "#"),
    ({"if": TEXT, "then": {"minLength": 2}}, "if` and `then", "#"),
    ({**TEXT, "pattern": r"\bword\b"}, "pattern", "#"),
]


@pytest.mark.parametrize(("schema", "keyword", "place"), REFUSED)
def test_what_cannot_be_promised_is_refused_by_name_and_place_unless_it_may_be_passed_over(schema, keyword, place):
    with pytest.raises(UsageError) as refused:
        checked_schema(schema)
    assert f"asks for `{keyword}` at {place}, which no grammar can promise" in refused.value.message
    assert "--json-schema-loose" in refused.value.message
    taken, passed = checked_schema(schema, loose=True)
    assert passed == [f"{name} at {place}" for name in keyword.split("` and `")]
    assert schema_grammar(taken)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "object", "properties": {"a": {"type": "strnig"}}}, "not valid in `type` at #/properties/a"),
        ({"type": "array", "items": {"type": "integer", "minimum": "3"}}, "not valid in `minimum` at #/items: .*f64"),
        ({"$ref": "#/$defs/missing"}, "not valid.* at #: .*missing"),
        ({"type": "array", "items": {"$ref": "https://example.org/schema"}}, "example.org"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "not valid"),
        ([1, 2], "a schema is an object"),
        (False, "nothing satisfies it"),
        ({"enum": ["x" * 70_000]}, "70014 bytes; at most 65536"),
        ({"const": "\ud83d"}, "not valid Unicode"),
    ],
)
def test_what_is_no_schema_is_said(schema, words):
    for loose in (False, True):
        with pytest.raises(UsageError, match=words):
            checked_schema(schema, loose=loose)


def test_a_stage_refuses_by_itself_what_its_requester_did_not(smollm2_path):
    with pytest.raises(UsageError, match="`uniqueItems` at #"):
        schema_grammar('{"type": "array", "uniqueItems": true}')
    with pytest.raises(UsageError, match="not JSON"):
        schema_grammar("{")


@pytest.mark.parametrize("depth", [60, 3000])
def test_deep_schemas_end_in_words_or_are_followed(depth):
    schema, text = TEXT, '"x"'
    for _ in range(depth):
        schema, text = {"type": "array", "items": schema}, f"[{text}]"
    if depth == 60:
        assert may_say(schema, text)
    else:
        with pytest.raises(UsageError, match=r"too deeply|recursion limit"):
            checked_schema(schema)


def test_own_options_of_the_matcher_are_not_the_schemas():
    assert not may_say({"x-guidance": {"whitespace_pattern": "x+"}, **LIST}, '["a",x"b"]')
    with pytest.raises(UsageError, match="uniqueItems"):
        checked_schema({"x-guidance": {"lenient": True}, **LIST, "uniqueItems": True})


@pytest.mark.parametrize(
    ("text", "may"), [('{\n  "a": 1\n}', True), ('{ "a":1}', True), ('{\n\n"a":1}', False), (" {}", False)]
)
def test_there_is_room_to_read_and_none_to_stall(text, may):
    assert may_say({"type": "object", "properties": {"a": {"type": "integer"}}}, text) == may


def test_the_public_suite_finds_nothing_wrong():
    assert SUITE.is_dir(), "The public suite of JSON Schema is missing: `make test` fetches it."
    found = list(verdicts())
    kinds = [verdict.kind for verdict in found]
    assert [verdict for verdict in found if verdict.kind == "wrong"] == [], table(found)
    assert len(found) > 1200
    assert kinds.count("supported") > 500


@pytest.fixture(scope="module")
def vocabulary(smollm2_path):
    with Llama(smollm2_path, hidden_out=False, n_ctx=64) as llama:
        yield Vocabulary(llama)


ENDS = [b'"', b'":', b'",', b'"}', b"}", b"]", b"null"]


@pytest.fixture(scope="module")
def wishes(vocabulary):
    """What a model without any sense wants to say, and how much it wants to end."""
    noise = np.random.default_rng(0).normal(0, 3, (97, vocabulary.n_tokens)).astype(np.float32)
    ending = np.zeros(vocabulary.n_tokens, np.float32)
    for token in range(vocabulary.n_tokens):
        ending[token] = vocabulary.ends(token) or vocabulary.piece(token).strip() in ENDS
    return noise, ending


def drawn(schema, vocabulary, wishes, seed):
    """Return an answer; the longer it is, the more it wants to end."""
    rng = random.Random(seed)
    mask = JsonMask(checked_schema(schema)[0], vocabulary)
    raw = b""
    for n in range(600):
        candidates = vocabulary.candidates(rng.choice(wishes[0]) + wishes[1] * (n / 3))
        mask.apply(candidates)
        token = int(candidates["logit"].argmax())
        assert candidates["logit"][token] > -np.inf, raw
        if vocabulary.ends(token):
            return raw.decode()
        raw += vocabulary.piece(token)
        mask.accept([token])
    pytest.fail(f"It does not come to an end: {raw[:400]!r}")


def test_whatever_a_model_wants_to_say_it_says_what_the_schema_wants(vocabulary, wishes):
    names = random.Random(13).choices(sorted(SCHEMAS), k=examples(500))
    assert len(SCHEMAS) >= 60
    for seed, name in enumerate([*SCHEMAS, *names][: examples(500)]):
        text = drawn(SCHEMAS[name], vocabulary, wishes, seed)
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        jsonschema.Draft202012Validator(SCHEMAS[name], format_checker=checker).validate(json.loads(text, strict=True))
        msgspec.json.decode(text)
