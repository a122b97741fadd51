"""Chat templates in the language of Go's `text/template`, as Ollama keeps them with its models.

What its templates use is here: actions, variables, `if`, `with`, `range`, comparisons, `len`, `index`, `slice`,
`printf`, and Ollama's own `json` and `currentDate`. Whoever made the template may have wanted harm: it reaches nothing
but the conversation, and steps and characters are counted. https://pkg.go.dev/text/template,
https://github.com/ollama/ollama/blob/main/docs/template.md
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ainet.errors import AinetError, ModelError
from ainet.stages.llama.chat_template import MAX_OUTPUT, MAX_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_DEPTH = 50  # actions inside each other
_ACTION = re.compile(
    r"\{\{(?P<before>-(?=\s))?\s*(?P<code>(?:/\*.*?\*/|\"(?:\\.|[^\"\\])*\"|`[^`]*`|[^`\"])*?)\s*(?P<after>(?<=\s)-)?\}\}",
    re.DOTALL,
)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\])*")|(?P<raw>`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<assign>:=|=)
    |(?P<variable>\$\w*)|(?P<field>\.\w+)|(?P<sign>[|(),.])|(?P<name>[A-Za-z_]\w*))""",
    re.VERBOSE,
)


class _Token(NamedTuple):
    kind: str
    text: str
    is_joined: bool


class _Stop(Exception):
    """The text is complete: the answer follows."""


class _Loop(Exception):
    """``break`` or ``continue``."""


class Node(NamedTuple):
    """A piece of a template: `kind` is ``text``, ``print``, ``set``, ``if``, ``with``, ``range`` or ``loop``."""

    kind: str
    value: Any
    names: list[str] = []  # noqa: RUF012 - it is never changed
    is_new: bool = False
    body: list[Node] = []  # noqa: RUF012
    otherwise: list[Node] = []  # noqa: RUF012


class GoTemplate:
    """A parsed template. Used by one thread.

    Parameters
    ----------
    source
        The template.

    Raises
    ------
    ModelError
        It cannot be read, or uses what is not here.
    """

    def __init__(self, source: str) -> None:
        try:
            pieces = _pieces(source)
            self._nodes, ending = _parse(pieces, 0)
        except (ValueError, IndexError, RecursionError) as exc:
            raise ModelError(f"The model's chat template cannot be read: {exc or 'it is incomplete'}") from exc
        if ending:
            raise ModelError(f"The model's chat template cannot be read: unexpected {ending!r}")
        #: Whether it is given the conversation, and not one turn after the other.
        self._takes_messages = re.search(r"\.Messages\b", source) is not None
        self._has_response = re.search(r"\.Response\b", source) is not None

    def render(self, messages: Sequence[dict[str, str]], *, bos: str, eos: str) -> str:
        """Return `messages` (role, content) as one text, up to the assistant's turn; see `ChatTemplate.render`."""
        turns = _collated(messages)
        system = "\n\n".join(turn["Content"] for turn in turns if turn["Role"] == "system")
        try:
            if self._takes_messages:
                last = [turn for turn in turns if turn["Role"] == "user"][-1:]
                given = {"System": system, "Messages": turns, "Prompt": last[0]["Content"] if last else ""}
                return _Run().text(self._nodes, given | {"Response": "", "Tools": [], "Suffix": ""})
            return "".join(self._turns(turns))
        except AinetError:
            raise
        except (TypeError, ValueError, LookupError, RecursionError) as exc:
            words = str(exc) or type(exc).__name__
            raise ModelError(f"The model's chat template does not accept this conversation: {words}") from exc

    def _turns(self, turns: list[dict[str, str]]) -> Iterator[str]:
        """Yield one text for each question with its answer; the last one ends where its answer belongs."""
        run = _Run()
        given = {"System": "", "Prompt": "", "Response": ""}
        for turn in turns:
            name = {"system": "System", "user": "Prompt", "assistant": "Response"}.get(turn["Role"], "")
            if (name == "Prompt" and given["Response"]) or (
                name == "System" and (given["Prompt"] or given["Response"])
            ):
                yield run.text(self._nodes, given) + ("" if self._has_response else given["Response"])
                given = {"System": "", "Prompt": "", "Response": ""}
            given[name] = turn["Content"]
        yield run.text(self._nodes, given, stops=True)


def _collated(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the turns as Ollama gives them: neighbours of one role are one."""
    turns: list[dict[str, str]] = []
    for message in messages:
        if turns and turns[-1]["Role"] == message["role"]:
            turns[-1]["Content"] += f"\n\n{message['content']}"
        else:
            turns.append({"Role": message["role"], "Content": message["content"]})
    return turns


def _pieces(source: str) -> list[str | list[_Token]]:
    """Return texts and the tokens of actions, in turn."""
    pieces: list[str | list[_Token]] = []
    end, trims = 0, False
    for match in _ACTION.finditer(source):
        text = source[end : match.start()]
        text = text.lstrip() if trims else text
        pieces.append(text.rstrip() if match["before"] else text)
        if not match["code"].startswith("/*"):
            pieces.append(_tokens(match["code"]))
        end, trims = match.end(), bool(match["after"])
    rest = source[end:]
    if "{{" in rest:
        raise ValueError("an action does not end")
    pieces.append(rest.lstrip() if trims else rest)
    return pieces


def _tokens(code: str) -> list[_Token]:
    found, at = [], 0
    while at < len(code):
        match = _TOKEN.match(code, at)
        if match is None or match.end() == at:
            raise ValueError(f"{code[at:].strip()!r} is not understood")
        kind = str(match.lastgroup)
        found.append(_Token(kind, match[kind], match.start(kind) == at and at > 0))
        at = match.end()
    return found


def _parse(pieces: list[str | list[_Token]], depth: int) -> tuple[list[Node], str]:
    """Return the nodes up to an action that ends a list, and that action; `pieces` loses what was read."""
    if depth > MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    nodes: list[Node] = []
    while pieces:
        piece = pieces.pop(0)
        if isinstance(piece, str):
            nodes.append(Node("text", piece))
            continue
        if not piece:
            raise ValueError("an action is empty")
        word = piece[0].text if piece[0].kind == "name" else ""
        if word in ("end", "else"):
            pieces.insert(0, piece)
            return nodes, word
        if word in ("if", "with", "range"):
            nodes.append(_branch(word, piece[1:], pieces, depth))
        elif word in ("break", "continue"):
            nodes.append(Node("loop", word))
        elif word in ("define", "template", "block"):
            raise ValueError(f"`{word}` is not known here")
        else:
            names, is_new, rest = _assigned(piece)
            nodes.append(Node("set" if names else "print", _pipeline(rest), names, is_new))
    return nodes, ""


def _branch(word: str, tokens: list[_Token], pieces: list[str | list[_Token]], depth: int) -> Node:
    names, _, rest = _assigned(tokens)
    body, ending = _parse(pieces, depth + 1)
    otherwise: list[Node] = []
    if not ending:
        raise ValueError(f"`{word}` has no `end`")
    closing = pieces.pop(0)
    if ending == "else":
        if len(closing) > 1 and isinstance(closing[1], _Token):  # else if, else with
            otherwise = [_branch(closing[1].text, list(closing[2:]), pieces, depth + 1)]  # type: ignore[arg-type]
        else:
            otherwise, ending = _parse(pieces, depth + 1)
            if ending != "end":
                raise ValueError(f"`{word}` has no `end`")
            pieces.pop(0)
    return Node(word, _pipeline(rest), names, True, body, otherwise)


def _assigned(tokens: list[_Token]) -> tuple[list[str], bool, list[_Token]]:
    """Return the variables that a pipeline is assigned to, whether they are new, and the pipeline."""
    at = next((n for n, token in enumerate(tokens) if token.kind == "assign"), None)
    if at is None:
        return [], False, tokens
    return [token.text for token in tokens[:at] if token.kind == "variable"], tokens[at].text == ":=", tokens[at + 1 :]


def _pipeline(tokens: list[_Token]) -> list[list[Any]]:
    """Return the commands of a pipeline, each a list of operands; what is in brackets is a pipeline itself."""
    commands: list[list[Any]] = [[]]
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if token.text == "|" and token.kind == "sign":
            commands.append([])
        elif token.text == "(" and token.kind == "sign":
            inner, open_ = [], 1
            while open_:
                if not rest:
                    raise ValueError("a bracket is not closed")
                inner.append(rest.pop(0))
                open_ += (inner[-1].kind == "sign") * ((inner[-1].text == "(") - (inner[-1].text == ")"))
            commands[-1].append(("pipeline", _pipeline(inner[:-1])))
        elif token.kind == "field" and token.is_joined and commands[-1]:
            commands[-1][-1] = ("field", (commands[-1][-1], token.text[1:]))
        elif token.kind == "field":
            commands[-1].append(("field", (("dot", None), token.text[1:])))
        elif token.kind == "sign" and token.text == ".":
            commands[-1].append(("dot", None))
        elif token.kind == "string":
            commands[-1].append(("value", json.loads(token.text, strict=False)))
        elif token.kind == "raw":
            commands[-1].append(("value", token.text[1:-1]))
        elif token.kind == "number":
            commands[-1].append(("value", float(token.text) if "." in token.text else int(token.text)))
        elif token.kind == "name" and token.text in ("true", "false", "nil"):
            commands[-1].append(("value", {"true": True, "false": False}.get(token.text)))
        elif token.kind in ("variable", "name"):
            if token.kind == "name" and token.text not in _FUNCTIONS and token.text not in ("and", "or"):
                raise ValueError(f"the function `{token.text}` is not known here")
            commands[-1].append((token.kind, token.text))
        else:
            raise ValueError(f"unexpected {token.text!r}")
    if not all(commands):
        raise ValueError("a command is missing")
    return commands


class _Run:
    """One rendering: counts what it does."""

    def __init__(self) -> None:
        self._steps = self._length = 0
        self._scopes: list[dict[str, Any]] = []
        self._stops = False
        self._text: list[str] = []

    def text(self, nodes: list[Node], given: dict[str, Any], *, stops: bool = False) -> str:
        """Return what the nodes print; with `stops`, up to where the response belongs."""
        self._scopes, self._stops, self._text = [{"$": given}], stops, []
        try:
            self._do(nodes, given)
        except _Stop:
            pass
        except _Loop as exc:
            raise ValueError(f"`{exc}` outside of a loop") from None
        return "".join(self._text)

    def _do(self, nodes: list[Node], dot: Any) -> None:
        self._scopes.append({})
        try:
            for node in nodes:
                self._step(node, dot)
        finally:
            self._scopes.pop()

    def _step(self, node: Node, dot: Any) -> None:
        self._count()
        if node.kind == "text":
            self._print(node.value)
        elif node.kind == "loop":
            raise _Loop(node.value)
        elif node.kind == "range":
            self._range(node, dot)
        elif node.kind == "print":
            if self._stops and node.value == [[("field", (("dot", None), "Response"))]]:
                raise _Stop
            self._print(_shown(self._value(node.value, dot)))
        else:
            value = self._value(node.value, dot)
            if node.kind == "set":
                self._set(node.names[0], value, is_new=node.is_new)
                return
            self._scopes.append(dict.fromkeys(node.names, value))
            try:
                inner = value if node.kind == "with" and _is_true(value) else dot
                self._do(node.body if _is_true(value) else node.otherwise, inner)
            finally:
                self._scopes.pop()

    def _range(self, node: Node, dot: Any) -> None:
        over = self._value(node.value, dot)
        items = list(over.items()) if isinstance(over, dict) else list(enumerate(over if _is_true(over) else ()))
        if not items:
            self._do(node.otherwise, dot)
        for key, item in items:
            self._scopes.append(dict(zip(node.names[::-1], (item, key), strict=False)))
            try:
                self._do(node.body, item)
            except _Loop as exc:
                if str(exc) == "break":
                    break
            finally:
                self._scopes.pop()

    def _set(self, name: str, value: Any, *, is_new: bool) -> None:
        scopes = [self._scopes[-1]] if is_new else [scope for scope in reversed(self._scopes) if name in scope]
        if not scopes:
            raise ValueError(f"the variable {name} does not exist")
        scopes[0][name] = value

    def _value(self, commands: list[list[Any]], dot: Any) -> Any:
        passed: list[Any] = []
        for operands in commands:
            passed = [self._command(operands, dot, passed)]
        return passed[0]

    def _command(self, operands: list[Any], dot: Any, passed: list[Any]) -> Any:
        self._count()
        kind, name = operands[0]
        if kind != "name":
            if len(operands) > 1 or passed:
                raise ValueError("what is no function is given values")
            return self._operand(operands[0], dot)
        if name in ("and", "or"):  # the rest is not looked at once it is known
            value: Any = None
            for operand in (*operands[1:], *(("value", one) for one in passed)):
                value = self._operand(operand, dot)
                if _is_true(value) == (name == "or"):
                    break
            return value
        return _FUNCTIONS[name](*(self._operand(operand, dot) for operand in operands[1:]), *passed)

    def _operand(self, operand: Any, dot: Any) -> Any:
        kind, content = operand
        match kind:
            case "value":
                return content
            case "dot":
                return dot
            case "pipeline":
                return self._value(content, dot)
            case "variable":
                found = [scope for scope in reversed(self._scopes) if content in scope]
                if not found:
                    raise ValueError(f"the variable {content} does not exist")
                return found[0][content]
            case "field":
                owner = self._operand(content[0], dot)
                return owner.get(content[1]) if isinstance(owner, dict) else None
        return self._command([operand], dot, [])

    def _count(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise ValueError(f"it takes more than {MAX_STEPS} steps.")

    def _print(self, text: str) -> None:
        self._length += len(text)
        if self._length > MAX_OUTPUT:
            raise ValueError(f"it makes more than {MAX_OUTPUT} characters.")
        self._text.append(text)


def _is_true(value: Any) -> bool:
    return bool(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return _json(value)
    return "" if value is None else str(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _printf(pattern: str, *values: Any) -> str:
    rest = iter(values)
    return re.sub(r"%[sdvq%]", lambda match: _formatted(match[0], rest), pattern)


def _formatted(verb: str, values: Iterator[Any]) -> str:
    if verb == "%%":
        return "%"
    value = next(values, "")
    return json.dumps(value, ensure_ascii=False) if verb == "%q" else _shown(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value[key]
    return value


def _same(first: Any, *others: Any) -> bool:
    return any(first == other for other in others)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": _same,
    "ne": lambda one, other: one != other,
    "lt": lambda one, other: one < other,
    "le": lambda one, other: one <= other,
    "gt": lambda one, other: one > other,
    "ge": lambda one, other: one >= other,
    "not": lambda value: not value,
    "len": lambda value: len(value or ()),
    "index": _index,
    "slice": lambda value, *ends: value[slice(*(ends if len(ends) > 1 else (ends[0] if ends else 0, None)))],
    "print": lambda *values: "".join(map(_shown, values)),
    "println": lambda *values: " ".join(map(_shown, values)) + "\n",
    "printf": _printf,
    "json": _json,
    "currentDate": lambda *_: datetime.now().astimezone().strftime("%Y-%m-%d"),
}
