"""Calls of tools: their form is learned from a template, and they are read as written, whole and in pieces."""

from __future__ import annotations

import functools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tool_templates import NONE, SINGLE, TOOL_TEMPLATES

from ainet.api.tools import Tool
from ainet.server.model_api.tool_reader import ToolReader
from ainet.stages.llama.chat_template import ChatTemplate
from ainet.stages.llama.tool_form import TOOLS, learn

END = "<|over|>"
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "more": {"type": "object"},
        "list": {"type": "array", "items": {}},
        "is-so": {"type": "boolean"},
    },
}
KNOWN = [Tool(name, "", PARAMETERS) for name in ("get_weather", "get", "set.it-up")]
ARGUMENTS = [
    {"city": 'Zürich "a" \\ b\nc', "days": 7, "more": {"a": [1, "}"]}, "list": [1, {"b": "]"}], "is-so": True},
    {},
    {"days": -2.5, "city": ""},
]
ALL = TOOL_TEMPLATES | SINGLE


@functools.cache
def learned(name):
    return learn(ChatTemplate(ALL[name]), bos="<s>", eos="</s>", ends=[END])


def written(name, calls, content=""):
    """Return the answer with these calls (name, arguments), as the template has it."""
    template = ChatTemplate(ALL[name])
    question = {"role": "user", "content": "?"}
    said = [
        {
            "id": f"id{i:07}",
            "type": "function",
            "function": {"name": one, "arguments": json.dumps(given) if "as text" in name else given},
        }
        for i, (one, given) in enumerate(calls)
    ]
    turns = [question, {"role": "assistant", "content": content, "tool_calls": said}]
    prompt = template.render([question], bos="<s>", eos="</s>", tools=TOOLS)
    text = template.render(turns, bos="<s>", eos="</s>", tools=TOOLS, begins_answer=False)
    assert text.startswith(prompt)
    return text[len(prompt) :].removesuffix("\n").removesuffix(END)


def read(form, pieces):
    """Read an answer piece by piece; what is told is never taken back."""
    reader, before = ToolReader(form, KNOWN), None
    for found in [*map(reader.add, pieces), reader.finish()]:
        if before is not None:
            assert found.said.startswith(before.said)
            assert [one.name for one in found.calls][: len(before.calls)] == [one.name for one in before.calls]
            for one, other in zip(before.calls, found.calls, strict=False):
                assert other.arguments.startswith(one.arguments)
        before = found
    return before


def calls(found):
    return [(one.name, json.loads(one.arguments)) for one in found.calls]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_calls_are_read_as_they_were_written(name, n):
    if n > 1 and name in SINGLE:
        assert learned(name).more is None
        return
    expected = [(tool.name, given) for tool, given in zip(KNOWN, ARGUMENTS[:n], strict=False)]
    text = written(name, expected)
    whole = read(learned(name), [text])
    assert calls(whole) == expected
    assert whole.said.replace("<think>", "").replace("</think>", "").strip() == ""
    # Split at every character.
    assert read(learned(name), list(text)) == whole
    for at in range(len(text)):
        assert read(learned(name), [text[:at], text[at:]]) == whole


@pytest.mark.parametrize("name", [one for one in TOOL_TEMPLATES if "thought" not in one])
def test_what_is_said_before_a_call_is_no_part_of_it(name):
    expected = [("get_weather", ARGUMENTS[0])]
    whole = read(learned(name), list("I look it up.\n" + written(name, expected)))
    assert (whole.said, calls(whole)) == ("I look it up.", expected)


@pytest.mark.parametrize("name", ALL)
@given(text=st.text("<[{}]>call'\" \nab|/=:", max_size=30))
def test_other_text_is_said_as_it_is(name, text):
    form = learned(name)
    if form.trigger in text or (form.trigger[0] == "{" and text.lstrip().startswith(form.trigger)):
        return
    found = read(form, list(text))
    assert (found.said, found.calls) == (text, [])


@pytest.mark.parametrize("name", ALL)
def test_a_call_that_breaks_off_is_told_as_far_as_it_came(name):
    text = written(name, [("get_weather", ARGUMENTS[0])])
    form = learned(name)
    for end in range(len(text)):
        found = read(form, [text[:end]])
        assert len(found.calls) <= 1
        if found.calls:
            assert found.calls[0].name == "get_weather"


def test_identifiers_of_the_model_are_told():
    for name in ("a list with identifiers", "a name with an identifier"):
        found = read(learned(name), [written(name, [("get", {}), ("get_weather", {"days": 1})])])
        assert [one.id for one in found.calls] == ["id0000000", "id0000001"]


@pytest.mark.parametrize("name", NONE)
def test_a_template_without_calls_has_no_form(name):
    assert learn(ChatTemplate(NONE[name]), bos="", eos="", ends=[]) is None


def test_what_begins_a_call_is_a_mark_or_the_beginning_of_json():
    triggers = {name: learned(name).trigger for name in ALL}
    assert triggers["an object between marks"] == "<call>"
    assert triggers["a list with identifiers"] == "[CALLS]"
    assert triggers["calls that are counted"] == "<|section|>"
    assert triggers["nothing but JSON"] == '{"name":'


HERMES, ELEMENTS = "an object between marks", "elements on lines of their own"


def test_a_call_in_another_form_does_not_repeat_those_before_it():
    expected = [("get", {"city": "A"}), ("get", {"city": "B"})]
    text = written(HERMES, expected) + '\n<call>\n{"name": "get", "parameters": {"city": "C"}}\n</call>'
    for pieces in ([text], list(text)):
        found = read(learned(HERMES), pieces)
        assert calls(found) == expected
        assert found.said.count("parameters") == 1


@pytest.mark.parametrize(
    ("written_value", "value"),
    [
        *[("New York", "New York"), ("7 days", "7 days"), ("null", None), ("None", None), ("[1, 2]", [1, 2])],
        *[
            ("NaN", "NaN"),
            ("{1, 2}", "{1, 2}"),
            ("1+2j", "1+2j"),
            ("['a']", ["a"]),
            ("[" * 6000, "[" * 6000),
            ("-1.5e3", -1500.0),
        ],
    ],
)
def test_a_value_that_may_be_several_things_is_json_or_else_a_string(written_value, value):
    optional = {"type": "object", "properties": {"city": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}
    text = f"<call>\n<function=get>\n<parameter=city>\n{written_value}\n</parameter>\n</function>\n</call>\nDone."
    for pieces in ([text], [text[:60], text[60:]], list(text) if len(text) < 500 else [text]):
        reader = ToolReader(learned(ELEMENTS), [Tool("get", "", optional)])
        for piece in pieces:
            reader.add(piece)
        found = reader.finish()
        assert calls(found) == [("get", {"city": value})]
        assert found.said.strip() == "Done."


def test_what_ends_a_value_may_stand_in_a_value_that_is_json():
    text = '<call>get\n<key>more</key>\n<value>{"a": "x</value> y"}</value>\n</call>'
    form = learned("elements with names of their own")
    assert form.elements.text.behind == "</value>\n"
    assert calls(read(form, list(text))) == [("get", {"more": {"a": "x</value> y"}})]


@pytest.mark.parametrize("parameters", [{"properties": None}, {"properties": []}, {}])
def test_schemas_of_any_kind_do_no_harm(parameters):
    reader = ToolReader(learned(HERMES), [Tool("get", "", parameters)])
    reader.add(written(HERMES, [("get", {"a": 1})]))
    assert calls(reader.finish()) == [("get", {"a": 1})]


def test_a_mark_in_what_is_said_is_said():
    found = read(learned(HERMES), list("Write\n\n<call> like this, or <call>"))
    assert (found.said, found.calls) == ("Write\n\n<call> like this, or <call>", [])


@pytest.mark.parametrize(
    "text",
    [
        "<call>\n{" + '"name": "' + "a" * 40_000,
        '<call>\n{"name": "get", "arguments": {"city": "' + "x" * 50_000,
        '<call>\n{"name": "get", "arguments": {"list": [' + "1, " * 15_000,
        '<call>\n{"name": "get", "arguments": {}}\n</call>\n' * 500,
        "prose " * 10_000,
    ],
    ids=["a name", "a string", "a list", "calls", "prose"],
)
def test_long_answers_are_read_as_they_come(text):
    """The work of a piece does not grow with what is read already: thousands of them are done in a test's time."""
    reader = ToolReader(learned(HERMES), KNOWN)
    for at in range(0, len(text), 8):
        found = reader.add(text[at : at + 8])
    assert len(found.said) + sum(len(one.arguments) for one in found.calls) > 100


@pytest.mark.parametrize(
    "one",
    [
        "{{ 'x' * 2000 + function.name }}" + "{{ function.arguments | tojson }}",
        "{{ '{\"a\":' * 50000 + function.name }}" + "{{ function.arguments | tojson }}",
        "{{ function.name + '\\n' }}{{ function.arguments | tojson }}",
    ],
    ids=["long", "deep", "without a mark"],
)
def test_forms_that_nobody_can_mean_are_none(one):
    source = TOOL_TEMPLATES[HERMES]
    begin, end = source.index("{% set function"), source.index("{%- endfor %}{% endif %}")
    hostile = source[:begin] + "{% set function = call.function %}" + one + source[end:]
    assert learn(ChatTemplate(hostile), bos="", eos="", ends=[END]) is None
