"""The form of a model's tool calls, learned from its chat template.

A template says nowhere in which form a model calls tools, but it writes earlier calls down in just that form. So calls
with marker names are rendered, one and several, with and without arguments; what stands around the markers is the form.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ainet.api.tools import IDENTIFIER, INDEX, ElementsForm, ToolForm, ValueForm
from ainet.errors import AinetError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ainet.stages.llama.chat_template import ChatTemplate

#: Words that no template has, and that none of them is a part of another.
QUESTION, ANSWER = "zqquestion", "zqanswer"
NAMES, KEYS, VALUES = ("zqfirst", "zqsecond", "zqthird"), ("zqka", "zqkb"), ("zqva", "zqvb")
#: As long as Mistral's templates want them.
IDENTIFIERS = ("zqid00001", "zqid00002", "zqid00003")
NUMBER = 271828
#: Characters of an answer that is looked at, and of each text of a form: whoever made the template may want harm.
MOST_ANSWER, MOST_TEXT = 20_000, 1000
PARAMETERS = {"type": "object", "properties": {key: {"type": "string", "description": "A word."} for key in KEYS}}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": PARAMETERS}}
    for name in NAMES
]
#: A mark that has begun and not ended, such as ``<tool``.
_OPEN_MARK = re.compile(r"[<\[][^<>\[\]\s]*$")
#: Where the model has not thought before it calls.
_NO_THOUGHTS = re.compile(r"\s*(?:(?:<think>\s*)?</think>|<\|channel>thought\n<channel\|>)?\s*")
#: A mark, with which calls begin.
_MARK = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
#: Where what begins a call ends: with a space, or with the first sign of JSON.
_TRIGGER_END = re.compile(r"\s|\{|\"|\[(?=[{\s\"]|$)")
_OBJECT = re.compile(r"\{")


class _Call(NamedTuple):
    """A call as it stands in an answer: what precedes its name, follows that, and where its arguments end."""

    name_begin: int
    name_end: int
    arguments_begin: int
    arguments_end: int


def learn(template: ChatTemplate, *, bos: str, eos: str, ends: Collection[str]) -> ToolForm | None:
    """Return the form of calls; None where the template shows none.

    Parameters
    ----------
    template
        The model's.
    bos, eos
        Text of the tokens that begin and end a sequence.
    ends
        Texts of all tokens that end answers.
    """
    for as_text in (False, True):
        for content in ("", None):
            try:
                probe = _Probe(template, bos, eos, ends, as_text=as_text, content=content)
                form = _json_form(probe) or _elements_form(probe)
            except (AinetError, _Unlike):
                continue
            if form is not None and _is_usable(form):
                return form
    return None


def _is_usable(form: ToolForm) -> bool:
    """Whether calls can be told from what is said, by texts that are no longer than such are."""
    texts = [form.first, form.arguments, form.more or "", form.end]
    if form.elements is not None:
        elements = form.elements
        texts += [
            elements.more,
            elements.none,
            *(t for one in (elements.text, elements.other) for t in (one.before, one.behind)),
        ]
    return bool(form.trigger) and max(map(len, texts)) <= MOST_TEXT


class _Unlike(Exception):
    """The template writes calls in no form that is known."""


class _Probe:
    """Renders calls, and cuts out what the model would have written."""

    def __init__(
        self,
        template: ChatTemplate,
        bos: str,
        eos: str,
        ends: Collection[str],
        *,
        as_text: bool,
        content: str | None,
    ) -> None:
        self._template, self._bos, self._eos, self._ends = template, bos, eos, ends
        self._as_text, self._content = as_text, content
        self._question = {"role": "user", "content": QUESTION}
        self._prompt = self._render([self._question], begins_answer=True)
        plain = self._render([self._question, {"role": "assistant", "content": ANSWER}])
        self._tail = plain[plain.rfind(ANSWER) + len(ANSWER) :]

    def answer(self, *arguments: dict[str, Any]) -> str:
        """Return the answer that calls the first tools with these arguments."""
        calls = [
            {
                "id": IDENTIFIERS[i],
                "type": "function",
                "function": {"name": NAMES[i], "arguments": json.dumps(given) if self._as_text else given},
            }
            for i, given in enumerate(arguments)
        ]
        turn = {"role": "assistant", "content": self._content, "tool_calls": calls}
        text = self._render([self._question, turn])
        begin = _common(self._prompt, text)
        if begin < len(self._prompt):
            begin -= len(_open_mark(text[:begin]))
        answer = text[begin:]
        if NAMES[0] not in answer or len(answer) > MOST_ANSWER:
            raise _Unlike
        last = answer.rfind(NAMES[len(arguments) - 1])
        found = [place for end in self._ends if end and (place := answer.find(end, last)) >= 0]
        answer = answer[: min(found)] if found else answer.removesuffix(self._tail)
        return answer.rstrip()

    def _render(self, messages: Sequence[dict[str, Any]], *, begins_answer: bool = False) -> str:
        return self._template.render(messages, bos=self._bos, eos=self._eos, tools=TOOLS, begins_answer=begins_answer)


def _json_form(probe: _Probe) -> ToolForm | None:
    """Return the form of calls whose arguments are a JSON object; None where they are none."""
    given = {KEYS[0]: VALUES[0]}
    answer = probe.answer(given)
    call = _find(answer, NAMES[0], given, 0)
    if call is None:
        return None
    first = _without_thoughts(answer[: call.name_begin])
    between, end = answer[call.name_end : call.arguments_begin], answer[call.arguments_end :]
    more: str | None = None
    for n in (3, 2):  # some templates end each call but the first like the last one
        try:
            more, several_between, end = _between_calls(probe, given, n)
        except (AinetError, _Unlike):
            continue
        between = several_between
        break
    first = _identified(first)
    return ToolForm(_trigger(first), first, _identified(between), more, _identified(end))


def _between_calls(probe: _Probe, given: dict[str, Any], n: int) -> tuple[str, str, str]:
    """Return what stands between several calls, between their names and arguments, and behind the last one."""
    answer = probe.answer(*[given] * n)
    calls: list[_Call] = []
    for name in NAMES[:n]:
        found = _find(answer, name, given, calls[-1].arguments_end if calls else 0)
        if found is None:
            raise _Unlike
        calls.append(found)
    pairs = itertools.pairwise(calls)
    more = _counted([answer[one.arguments_end : other.name_begin] for one, other in pairs], 1)
    between = _counted([answer[one.name_end : one.arguments_begin] for one in calls], 0)
    return more, between, answer[calls[-1].arguments_end :]


def _elements_form(probe: _Probe) -> ToolForm | None:
    """Return the form of calls whose arguments stand one behind the other."""
    one = probe.answer({KEYS[0]: VALUES[0]})
    name = one.rfind(NAMES[0], 0, max(0, one.find(KEYS[0])))
    key = one.find(KEYS[0], name)
    value = one.find(VALUES[0], key)
    if min(name, key, value) < 0:
        return None
    first, arguments = _without_thoughts(one[:name]), one[name + len(NAMES[0]) : key]
    before, behind_last = one[key + len(KEYS[0]) : value], one[value + len(VALUES[0]) :]
    _, behind_first, _ = _around(probe.answer({KEYS[0]: VALUES[0], KEYS[1]: VALUES[1]}), VALUES[0], KEYS[1])
    behind = behind_last[: _common(behind_first, behind_last)]
    behind = behind.removesuffix(_open_mark(behind))
    more_arguments, end = behind_first.removeprefix(behind), behind_last.removeprefix(behind)
    _, number_before, rest = _around(probe.answer({KEYS[0]: NUMBER}), KEYS[0], str(NUMBER))
    nothing = probe.answer({})
    nothing = nothing[nothing.rfind(NAMES[0]) + len(NAMES[0]) :]
    if not rest.endswith(end) or not nothing.endswith(end):
        raise _Unlike
    elements = ElementsForm(
        ValueForm(before, behind),
        ValueForm(number_before, rest.removesuffix(end)),
        more_arguments,
        nothing.removesuffix(end),
    )
    more = None
    try:
        several = probe.answer({KEYS[0]: VALUES[0]}, {KEYS[0]: VALUES[0]})
        _, between, last = _around(several, VALUES[0], NAMES[1])
        more = _identified(between.removeprefix(behind))
        end = last[last.rfind(VALUES[0]) + len(VALUES[0]) :].removeprefix(behind)
    except (AinetError, _Unlike):
        pass
    first = _identified(first)
    return ToolForm(_trigger(first), first, _identified(arguments), more, _identified(end), elements)


def _find(answer: str, name: str, arguments: dict[str, Any], begin: int) -> _Call | None:
    """Return the next call of a tool; None where its arguments are no JSON object."""
    decoder = json.JSONDecoder()
    place = answer.find(name, begin)
    for found in _OBJECT.finditer(answer, max(place, begin)):
        try:
            value, end = decoder.raw_decode(answer, found.start())
        except (ValueError, RecursionError):
            continue
        if value == arguments:
            place = answer.rfind(name, begin, found.start())
            return _Call(place, place + len(name), found.start(), end) if place >= 0 else None
    return None


def _around(answer: str, first: str, second: str) -> tuple[str, str, str]:
    """Return what stands before a word, between it and the next other one, and behind that."""
    begin = answer.find(first)
    end = answer.find(second, begin + len(first))
    if min(begin, end) < 0:
        raise _Unlike
    return answer[:begin], answer[begin + len(first) : end], answer[end + len(second) :]


def _counted(texts: list[str], number: int) -> str:
    """Return what several texts have in common, where they may count from `number` on, or have identifiers."""
    texts = [_identified(text) for text in texts]
    if len(set(texts)) == 1:
        return texts[0]
    parts = [re.split(r"(\d+)", text) for text in texts]
    if len({len(one) for one in parts}) != 1:
        raise _Unlike
    found = []
    for words in zip(*parts, strict=True):
        if len(set(words)) == 1:
            found.append(words[0])
        elif all(word == str(number + i) for i, word in enumerate(words)):
            found.append(INDEX)
        else:
            raise _Unlike
    return "".join(found)


def _identified(text: str) -> str:
    for identifier in IDENTIFIERS:
        text = text.replace(identifier, IDENTIFIER)
    return text


def _without_thoughts(text: str) -> str:
    found = _NO_THOUGHTS.match(text)
    return text[found.end() :] if found is not None else text


def _trigger(first: str) -> str:
    """Return with what the text before a first call begins, as no other text does."""
    if (mark := _MARK.match(first)) is not None:
        return mark[0]
    end = _TRIGGER_END.search(first)
    if end is None or end.start() > 0:
        return first[: end.start()] if end is not None else first
    return first.rstrip(' "')  # the call is JSON and nothing else


def _open_mark(text: str) -> str:
    found = _OPEN_MARK.search(text)
    return found[0] if found is not None else ""


def _common(one: str, other: str) -> int:
    """Return the number of characters with which both texts begin."""
    most = min(len(one), len(other))
    return next((i for i in range(most) if one[i] != other[i]), most)
