"""Work: what a device did, and for whom. It is told where it is done, and counted elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

#: Answers of a pipeline, the layers of a stage, vectors of texts; bytes that were sent, handed on, and kept for others.
WorkKind = Literal["answer", "layers", "vectors", "transfer", "relay", "storage"]


class Work(NamedTuple):
    """Some work, or a part of it.

    Attributes
    ----------
    requester
        Node id of the device that it was done for; empty for this one.
    model
        The model's name; empty where there is none.
    answers
        Answers that began.
    prompt, generated
        Tokens, as the model's own tokenizer counts them.
    layer_tokens
        Tokens times layers that computed them.
    seconds
        For which this device worked.
    size
        Bytes; those that are kept count once an hour.
    """

    kind: WorkKind
    requester: str = ""
    model: str = ""
    answers: int = 0
    prompt: int = 0
    generated: int = 0
    layer_tokens: int = 0
    seconds: float = 0.0
    size: int = 0


#: Takes note of work.
NoteWork = Callable[[Work], object]


def unmetered(_: Work) -> None:
    """Take no note."""
