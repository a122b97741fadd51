"""Tools that a model may call, its calls, and the form in which it writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: In the texts of a form: a number that counts the calls of an answer, and an identifier of nine letters and digits.
INDEX, IDENTIFIER = "\N{REPLACEMENT CHARACTER}#", "\N{REPLACEMENT CHARACTER}@"


@dataclass(frozen=True)
class Tool:
    """A function that the asker has.

    Attributes
    ----------
    parameters
        A JSON schema of its arguments, which are an object.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool, with its arguments as JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ValueForm:
    """What stands around an argument's value, where each argument has a place of its own."""

    before: str
    behind: str


@dataclass(frozen=True)
class ElementsForm:
    """Arguments that are no JSON object, but stand one behind the other, each with its name.

    Attributes
    ----------
    text, other
        Around strings, which stand as they are, and around all other values, which stand as JSON.
    more
        The text between an argument and the name of the next one.
    none
        The text between the call's name and its end, where there are no arguments.
    """

    text: ValueForm
    other: ValueForm
    more: str
    none: str


@dataclass(frozen=True)
class ToolForm:
    """How a model writes calls.

    Attributes
    ----------
    trigger
        The beginning of `first` that nothing but a call begins with; one that begins as JSON counts at the beginning of
        an answer only. Empty where there is none.
    first
        The text before the name of the first call.
    arguments
        The text between a call's name and its arguments, which are a JSON object, or the name of the first element.
    more
        The text between a call's arguments and the name of the next call; None where there is only one.
    end
        The text behind the arguments of the last call.
    """

    trigger: str
    first: str
    arguments: str
    more: str | None
    end: str
    elements: ElementsForm | None = None
