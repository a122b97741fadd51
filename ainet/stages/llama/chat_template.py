"""Chat templates: Jinja as Hugging Face's transformers renders it, in a sandbox with limits.

Templates come with model files, and whoever made the file may have wanted harm. The sandbox keeps a template away from
Python; on top of that are counted, in one rendering:

- steps: every turn of a loop and every call (`MAX_STEPS`);
- characters of the whole text (`MAX_OUTPUT`) and of all expressions, also in macros and blocks (`MAX_PRINTED`);
- the length of what ``+``, ``*`` and ``~`` make (`MAX_OUTPUT`), and the size of the numbers of ``*`` and ``**``.

What a single filter or method makes (``"x"|center(10**9)``) is not limited. It can cost the worker, never the notebook.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from ainet.errors import AinetError, ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2.parser import Parser
    from jinja2.runtime import Context

MAX_OUTPUT = 4 << 20  # characters: the prompt has a limit of 4 MB, too
MAX_PRINTED = 4 * MAX_OUTPUT
MAX_STEPS = 200_000  # about a second
MAX_BITS = 4096  # of an integer


class ChatTemplate:
    """A compiled chat template. Used by one thread.

    Parameters
    ----------
    source
        Jinja, as in ``tokenizer.chat_template``.

    Raises
    ------
    ModelError
        If it is not Jinja.
    """

    def __init__(self, source: str) -> None:
        self._sandbox = Sandbox()
        try:
            self._template = self._sandbox.from_string(source)
        except Exception as exc:  # whatever the compiler meets in a hostile template
            raise ModelError(f"The model's chat template cannot be read: {_words(exc)}") from exc

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        bos: str,
        eos: str,
        tools: Sequence[dict[str, Any]] | None = None,
        begins_answer: bool = True,
    ) -> str:
        """Return `messages` (role, content, calls) as one text, up to the assistant's turn.

        Parameters
        ----------
        messages
            The conversation.
        bos, eos
            Text of the tokens that begin and end a sequence.
        tools
            That may be called, in OpenAI's form.
        begins_answer
            Whether the assistant's next turn begins at the end.

        Raises
        ------
        UsageError
            If the template refuses the conversation.
        ModelError
            If it fails, or goes beyond a limit.
        """
        self._sandbox.restart()
        text, length = [], 0
        try:
            for piece in self._template.generate(
                messages=list(messages),
                tools=list(tools) if tools else None,
                documents=None,
                add_generation_prompt=begins_answer,
                bos_token=bos,
                eos_token=eos,
            ):
                length += len(piece)
                _check_length(length)
                text.append(piece)
        except AinetError:
            raise
        except Exception as exc:  # a template may raise anything, from TypeError to RecursionError
            raise ModelError(f"The model's chat template does not accept this conversation: {_words(exc)}") from exc
        return "".join(text)


class Sandbox(ImmutableSandboxedEnvironment):
    """Hugging Face's environment for chat templates, which counts what a template does."""

    intercepted_binops = frozenset(["+", "*", "**"])

    def __init__(self) -> None:
        # What comes out is a prompt, not HTML: nothing is escaped.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols], finalize=self._print
        )
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _now
        self.restart()

    def restart(self) -> None:
        """Begin to count anew."""
        self._steps = 0
        self._printed = 0

    def turn(self) -> None:
        """Stand for a turn of a loop; `call` counts it."""

    def concatenate(self, *values: Any) -> str:
        """Do what the operator ``~`` does."""
        texts = [str(value) for value in values]
        _check_length(sum(map(len, texts)))
        return "".join(texts)

    # What the compiled template calls.

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call `function` if it is safe to."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise TemplateError(f"it takes more than {MAX_STEPS} steps.")
        if function == self.turn:
            return None
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Return what an operator makes, unless it grows without measure."""
        if operator == "+":
            _check_length(_length(left) + _length(right))
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MAX_BITS:
                raise TemplateError(f"it computes a number of more than {MAX_BITS} bits.")
        elif operator == "*":
            _check_length(max(_length(left) * _count(right), _count(left) * _length(right)))
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _Counting().visit(template)
        return template

    def _print(self, value: Any) -> str:
        text = str(value)
        self._printed += len(text)
        _check_length(self._printed, MAX_PRINTED)
        return text


class GenerationTag(Extension):
    """Accepts ``{% generation %}…{% endgeneration %}``, with which templates mark what is trained on."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """Return what stands between the tags."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Counting(NodeTransformer):
    """Lets the turns of loops and the operator ``~`` be counted, for which Jinja's sandbox has no hook."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - named after the node
        self.generic_visit(node)
        turn = nodes.Call(nodes.EnvironmentAttribute("turn"), [], [], None, None, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(turn, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        function = nodes.EnvironmentAttribute("concatenate")
        return nodes.Call(function, node.nodes, [], None, None, lineno=node.lineno)


def _refuse(message: str) -> None:
    raise UsageError(f"The model's chat template refuses this conversation: {message}")


def _now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _check_length(length: int, most: int = MAX_OUTPUT) -> None:
    if length > most:
        raise TemplateError(f"it makes more than {most} characters.")


def _words(exc: Exception) -> str:
    return str(exc) if isinstance(exc, TemplateError) else f"{type(exc).__name__}: {exc}"
