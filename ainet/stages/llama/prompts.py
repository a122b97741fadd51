"""Prompts: a conversation as the tokens that the model's chat template makes of it.

Control tokens come from the template alone. What a turn says is text, also where it spells a control token
(``<|im_end|>`` in a question about templates, or in a document that wants to end the user's turn). A turn's spelling of
one is split by a sign that occurs nowhere; behind the template, what is still whole is the template's.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ainet.errors import AinetError, UsageError
from ainet.stages.llama.chat_template import ChatTemplate
from ainet.stages.llama.go_template import GoTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ainet.api.generate import Message
    from ainet.stages.llama.vocabulary import Vocabulary

#: Characters that Unicode has set aside for use within a program.
_SIGNS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
_CHATML = """{% for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}{{ '<|im_start|>assistant\\n' }}"""
MAX_TEMPLATE = 1 << 16  # characters
SYSTEM_IN_FRONT = "instructions went in front of the question: the template has no place for them"
AS_CHATML = "asked as ChatML: the model has no chat template"


class Prompt(NamedTuple):
    """The tokens of a prompt, int32 of shape (n,), and what whoever asked must know of how they came about."""

    tokens: NDArray[np.int32]
    notes: list[str]


def plain(text: str, vocabulary: Vocabulary) -> Prompt:
    """Return a text as it is, behind one token that begins a sequence, where the model wants that."""
    return Prompt(vocabulary.tokenize(_without_bos(text, vocabulary), special=True), [])


def given(tokens: Sequence[int], vocabulary: Vocabulary) -> Prompt:
    """Return tokens as they are; raises `UsageError` for what is none."""
    wrong = [token for token in tokens if not 0 <= token < vocabulary.n_tokens]
    if wrong:
        raise UsageError(
            f"The prompt names {wrong[0]}; the model's tokens are 0 to {vocabulary.n_tokens - 1}.", param="prompt"
        )
    return Prompt(np.array(tokens, np.int32), [])


def between(prefix: str, suffix: str, vocabulary: Vocabulary) -> Prompt:
    """Return what asks a model for the text between two others, either of which may be empty.

    (Bavarian et al., "Efficient Training of Language Models to Fill in the Middle", 2022: prefix, suffix, middle.)

    Raises
    ------
    UsageError
        The model was not taught to.
    """
    marks = vocabulary.fill_in_marks
    if marks is None:
        raise UsageError(
            "This model cannot fill in: it has no tokens for what stands before and behind. "
            "Leave out the suffix, or take a model for code.",
            param="suffix",
        )
    begin, behind, middle = ([mark] for mark in marks)
    first = vocabulary.tokenize("", special=True)[: int(vocabulary.adds_bos)]
    texts = (vocabulary.tokenize(text, special=False) for text in (prefix, suffix))
    return Prompt(np.concatenate([first, begin, next(texts), behind, next(texts), middle]).astype(np.int32), [])


def chat(messages: Sequence[Message], vocabulary: Vocabulary, template: str = "") -> Prompt:
    """Return a conversation in the model's own template, or in another one, up to the assistant's turn.

    Parameters
    ----------
    messages
        The conversation.
    vocabulary
        The model's.
    template
        A template in Go's language that takes the place of the model's own.

    Raises
    ------
    UsageError
        If the model has no template, or its template refuses the conversation.
    ModelError
        If its template fails.
    """
    how, notes = (_go_template(template), []) if template else _template(vocabulary)
    turns = [{"role": message.role, "content": message.content} for message in messages]
    said = "".join(turn["content"] for turn in turns)
    spelt = vocabulary.control_pattern
    sign = next((sign for sign in _SIGNS if sign not in said), "")
    is_spelt = spelt is not None and spelt.search(said) is not None
    if spelt is not None and is_spelt:
        for turn in turns:
            turn["content"] = spelt.sub(lambda match: f"{match[0][0]}{sign}{match[0][1:]}", turn["content"])
    text, more = _render(how, turns, vocabulary)
    text = _without_bos(text, vocabulary)
    tokens = _apart(text, sign, vocabulary) if is_spelt else vocabulary.tokenize(text, special=True)
    return Prompt(tokens, [*notes, *more])


def _template(vocabulary: Vocabulary) -> tuple[ChatTemplate, list[str]]:
    template = vocabulary.template
    if template is not None:
        return template, []
    if {"<|im_start|>", "<|im_end|>"} <= vocabulary.controls.keys():
        return ChatTemplate(_CHATML), [AS_CHATML]
    raise UsageError("This model has no chat template. Ask with raw=True (--raw) to complete plain text.")


@functools.lru_cache(maxsize=8)
def _go_template(source: str) -> GoTemplate:
    if len(source) > MAX_TEMPLATE:
        raise UsageError(f"The chat template has {len(source)} characters; at most {MAX_TEMPLATE} are allowed.")
    return GoTemplate(source)


def _render(
    template: ChatTemplate | GoTemplate, turns: list[dict[str, str]], vocabulary: Vocabulary
) -> tuple[str, list[str]]:
    """Return the conversation as text; instructions that the template refuses or drops precede the first question."""

    def render(turns: list[dict[str, str]]) -> str:
        return template.render(turns, bos=vocabulary.bos, eos=vocabulary.eos)

    instructions = [turn["content"] for turn in turns if turn["role"] == "system" and turn["content"].strip()]
    rest = [dict(turn) for turn in turns if turn["role"] != "system"]
    question = next((turn for turn in rest if turn["role"] == "user"), None)
    if not instructions or question is None:
        return render(turns), []
    try:
        text = render(turns)
    except AinetError:
        pass
    else:
        if all(words.strip() in text for words in instructions):
            return text, []
    question["content"] = "\n\n".join([*instructions, question["content"]])
    return render(rest), [SYSTEM_IN_FRONT]


def _without_bos(text: str, vocabulary: Vocabulary) -> str:
    """Leave out the token that begins a sequence where the tokenizer adds it: it would come twice."""
    return text.removeprefix(vocabulary.bos) if vocabulary.adds_bos else text


def _apart(text: str, sign: str, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Return the tokens of a text whose control tokens count where no sign splits them, as llama.cpp takes it apart."""
    pattern = vocabulary.control_pattern
    assert pattern is not None  # noqa: S101 - it was found in the text
    pieces = re.split(f"({pattern.pattern})", text)
    tokens = [vocabulary.tokenize("", special=True)[: int(vocabulary.adds_bos)]]
    for n, piece in enumerate(pieces):
        if n % 2:
            tokens.append(np.array([vocabulary.controls[piece]], np.int32))
            continue
        between = piece.replace(sign, "")
        if n > 0 and vocabulary.takes_space(vocabulary.controls[pieces[n - 1]], behind=True):
            between = between.lstrip()
        if n + 1 < len(pieces) and vocabulary.takes_space(vocabulary.controls[pieces[n + 1]], behind=False):
            between = between.rstrip()
        if between:
            tokens.append(vocabulary.tokenize(between, special=False))
    return np.concatenate(tokens)
