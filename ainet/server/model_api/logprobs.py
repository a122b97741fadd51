"""Log probabilities in the two forms of OpenAI's API."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.api.logprobs import TokenLogprob


class TopLogprob(msgspec.Struct, frozen=True):
    """A token that might have been in this place."""

    token: str
    bytes: list[int]
    logprob: float


class ChatLogprob(msgspec.Struct, frozen=True):
    """A token of a chat's answer."""

    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """The tokens of a chat's answer."""

    content: list[ChatLogprob]
    refusal: None = None


class TextLogprobs(msgspec.Struct, frozen=True):
    """The tokens of a text, and where each begins in it, in characters."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


def name(piece: bytes) -> str:
    """Return what a token is called: its text, or its bytes where these are no text of their own."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def of_chat(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Return the form of chats."""
    return ChatLogprobs(
        [
            ChatLogprob(
                name(one.piece),
                list(one.piece),
                one.logprob or 0.0,
                [TopLogprob(name(other.piece), list(other.piece), other.logprob) for other in one.alternatives],
            )
            for one in tokens
        ]
    )


class TextScores:
    """Makes the form of texts, piece by piece.

    Parameters
    ----------
    has_alternatives
        Whether alternatives are told.
    """

    def __init__(self, *, has_alternatives: bool) -> None:
        self._has_alternatives = has_alternatives
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def add(self, tokens: Sequence[TokenLogprob]) -> TextLogprobs:
        """Return the next tokens."""
        offsets = []
        for one in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(one.piece))
        top = [_alternatives(one) for one in tokens] if self._has_alternatives else None
        return TextLogprobs([name(one.piece) for one in tokens], [one.logprob for one in tokens], top, offsets)


def _alternatives(one: TokenLogprob) -> dict[str, float] | None:
    if one.logprob is None:
        return None
    found: dict[str, float] = {}
    for other in one.alternatives:
        found.setdefault(name(other.piece), other.logprob)  # the best of those that are called alike
    return found
