"""What an answer that passages went along with looks like: its sentences with marks, and the passages quoted below."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ainet.client.answer import placement_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.api.context import FoundPassage
    from ainet.api.generate import Message
    from ainet.client.answer import Answer

#: The mark of a sentence that no passage says.
UNKNOWN = "[–]"
LEGEND = f"{UNKNOWN} not from your documents"
#: Lines of a passage that are quoted.
MOST_LINES = 8
_CODE = re.compile(r"(?ms)^ *```.*?(?:^ *```|\Z)|`[^`\n]*`")


def marked(answer: Answer, *, escape: bool = False) -> str:
    """Return the text of an answer with a mark behind each sentence: its passage's number, or that none says it.

    Parameters
    ----------
    escape
        Whether the text is read as Markdown, in which brackets may mean links.
    """
    text = answer.text
    code = [match.span() for match in _CODE.finditer(text)]
    for one in sorted(answer.citations, key=lambda one: -one.end):
        if any(begin < one.end < end for begin, end in code):
            continue
        mark = UNKNOWN if one.passage is None else f"[{one.passage + 1}]"
        mark = mark.replace("[", r"\[").replace("]", r"\]") if escape else mark
        text = f"{text[: one.end]} {mark}{text[one.end :]}"
    return text


def has_unknown(answer: Answer) -> bool:
    """Whether there is a sentence that no passage says."""
    return any(one.passage is None for one in answer.citations)


def is_elsewhere(path: str) -> bool:
    """Whether a path is one of another device: ``DEVICE:PATH``."""
    device, colon, _ = path.partition(":")
    return bool(colon and device and "/" not in device) and not Path(path).exists()


def place(passage: FoundPassage, line: int = 0) -> str:
    """Return where a passage stands, or the line that was cited."""
    line = line or passage.best_line or passage.line
    cell = f" cell {passage.cell}" if passage.cell and Path(passage.path).suffix == ".ipynb" else ""
    device = f"{passage.device}:" if passage.device else ""
    return f"{device}{passage.path}{cell}{f':{line}' if line else ''}"


def source_words(passages: Sequence[FoundPassage], *, whole: bool = False) -> list[str]:
    """Return passages for people, each with its number, its place and its text, or (`whole`) all of it."""
    found = []
    for number, one in enumerate(passages, 1):
        lines = one.text.split("\n")
        shown = lines if whole else lines[:MOST_LINES]
        more = ["    …"] if len(shown) < len(lines) else []
        found.append("\n".join([f"[{number}] {place(one)}", *(f"    {line}" for line in shown), *more]))
    return found


def below_words(answer: Answer) -> str:
    """Return what stands below an answer in a terminal: the passages, with what they say of it, and what none says."""
    said: dict[int | None, list[str]] = {}
    for one in answer.citations:
        said.setdefault(one.passage, []).append(answer.text[one.begin : one.end])
    lines = []
    for number, words in enumerate(source_words(answer.passages)):
        lines += [words, *(f"  says: {sentence}" for sentence in said.get(number, []))]
    lines += [f"{LEGEND}: {sentence}" for sentence in said.get(None, [])]
    return "\n".join(lines)


def prompt_words(messages: Sequence[Message], answer: Answer) -> str:
    """Return what a model was asked, for people: each turn, where it was computed, and why passages went along."""
    *before, question = messages
    parts = [f"{one.role}: {one.content}" for one in before]
    parts.append(f"{question.role}: {answer.prompt or question.content}")
    went = (
        f"{answer.model}, layers {placement_words(answer.placement)}" if answer.model else "nowhere: it was not asked"
    )
    parts.append(f"Went to: {went}.")
    for number, one in enumerate(answer.passages, 1):
        parts.append(f"[{number}] {place(one)}, found by {one.reason} (score {one.score:.2f})")
    return "\n\n".join([*parts, *answer.notes])
