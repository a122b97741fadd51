"""How probable the tokens of an answer, or of its prompt, were."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Most alternatives that are told of each token.
MOST_ALTERNATIVES = 20


@dataclass(frozen=True)
class Alternative:
    """A token that may follow.

    Attributes
    ----------
    token
        Its number.
    piece
        The bytes that it stands for; they may be a part of a character.
    logprob
        The natural logarithm of the probability that the model gives it.
    """

    token: int
    piece: bytes
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    """A token that does follow, and what else might have.

    Attributes
    ----------
    token, piece
        As in `Alternative`.
    logprob
        As the model sees it, whatever temperature, penalties and grammar make of that; None where nothing precedes it.
    alternatives
        The most probable tokens in its place, which may be itself, the best one first.
    """

    token: int
    piece: bytes
    logprob: float | None
    alternatives: list[Alternative] = field(default_factory=list)
