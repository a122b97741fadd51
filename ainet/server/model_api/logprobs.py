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
    """Makes the form of a text, piece by piece.

    Parameters
    ----------
    has_alternatives
        Whether alternatives are told.
    given
        The prompt, where it is a text that is told as a whole: its tokens may say a little more.
    """

    def __init__(self, *, has_alternatives: bool, given: str | None = None) -> None:
        self._has_alternatives, self._given = has_alternatives, given
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = self._told = 0

    def prompt(self, begin: int, tokens: Sequence[TokenLogprob]) -> tuple[str, TextLogprobs | None]:
        """Return what is new of the prompt's tokens, which may be told again; its text only where it was not given."""
        new = tokens[max(0, self._told - begin) :]
        self._told = max(self._told, begin + len(tokens))
        texts = [self._decoder.decode(one.piece) for one in new]
        offsets = [self._pass(text) for text in texts]
        text = "".join(texts) if self._given is None else ""
        return text, self._form(new, offsets) if new else None

    def answer(self, tokens: Sequence[TokenLogprob]) -> TextLogprobs | None:
        """Return the next tokens of the answer."""
        if self._given is not None:
            self._offset, self._given = len(self._given), None
        offsets = []
        for one in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(one.piece))
        return self._form(tokens, offsets) if tokens else None

    def _pass(self, text: str) -> int:
        """Pass a token of the prompt; returns where it begins."""
        begin = self._offset
        if self._given is None:
            self._offset += len(text)
            return begin
        # Some vocabularies begin a text with a space, and with a token that is no text.
        for one in (text, text.removeprefix(" ")):
            if self._given.startswith(one, begin):
                self._offset += len(one)
                break
        return begin

    def _form(self, tokens: Sequence[TokenLogprob], offsets: list[int]) -> TextLogprobs:
        top = [_alternatives(one) for one in tokens] if self._has_alternatives else None
        return TextLogprobs([name(one.piece) for one in tokens], [one.logprob for one in tokens], top, offsets)


def _alternatives(one: TokenLogprob) -> dict[str, float] | None:
    if one.logprob is None:
        return None
    found: dict[str, float] = {}
    for other in one.alternatives:
        found.setdefault(name(other.piece), other.logprob)  # the best of those that are called alike
    return found
