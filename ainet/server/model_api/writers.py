"""Answers in the forms of OpenAI's API, whole or as they grow."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ainet.server.model_api import chat, completion

if TYPE_CHECKING:
    from ainet.api.generate import Done
    from ainet.server.model_api.fields import Sampling

#: Why answers end, in their words.
FINISH = {"stop": "stop", "length": "length", "context": "length"}


class Writer(Protocol):
    """Puts an answer into the form in which a client knows it."""

    def begin(self, model: str) -> msgspec.Struct | None:
        """Return the first chunk, if there is one before the first text."""

    def text(self, piece: str) -> msgspec.Struct:
        """Return the chunk with the next piece."""

    def end(self, done: Done) -> list[msgspec.Struct]:
        """Return the last chunks."""

    def whole(self, done: Done) -> msgspec.Struct:
        """Return the whole answer."""


class _Writer:
    def __init__(self, prefix: str, asked: Sampling) -> None:
        self._asked = asked
        self._id = f"{prefix}-{secrets.token_hex(12)}"
        self._created, self._model = int(time.time()), asked.model or ""

    @property
    def _no_usage(self) -> msgspec.UnsetType | None:
        """What chunks before the last one say of usage, where the last one counts."""
        return None if self._asked.includes_usage else msgspec.UNSET

    def _named(self, **more: Any) -> dict[str, Any]:
        return {"id": self._id, "created": self._created, "model": self._model, **more}


class ChatWriter(_Writer):
    """Chats."""

    def __init__(self, asked: Sampling) -> None:
        super().__init__("chatcmpl", asked)

    def begin(self, model: str) -> msgspec.Struct | None:
        """Return the first chunk: who speaks, and nothing yet; see `Writer`."""
        self._model = model
        return self._chunk(chat.Delta(role="assistant", content=""))

    def text(self, piece: str) -> msgspec.Struct:
        """Return the next piece; see `Writer`."""
        return self._chunk(chat.Delta(content=piece))

    def end(self, done: Done) -> list[msgspec.Struct]:
        """Return why it ended, and the counts, where they are asked for; see `Writer`."""
        last = self._chunk(chat.Delta(), FINISH[done.finish], ainet=ours(done))
        if not self._asked.includes_usage:
            return [last]
        return [last, chat.ChatChunk(**self._named(choices=[], usage=usage(done)))]

    def whole(self, done: Done) -> msgspec.Struct:
        """Return the whole answer; see `Writer`."""
        self._model = done.model
        choice = chat.ChatChoice(chat.ChatMessage(done.text), FINISH[done.finish])
        return chat.ChatCompletion(**self._named(choices=[choice], usage=usage(done), ainet=ours(done)))

    def _chunk(self, delta: chat.Delta, finish: str | None = None, **more: Any) -> chat.ChatChunk:
        return chat.ChatChunk(**self._named(choices=[chat.DeltaChoice(delta, finish)], usage=self._no_usage, **more))


class CompletionWriter(_Writer):
    """Texts that go on."""

    def __init__(self, asked: Sampling) -> None:
        super().__init__("cmpl", asked)

    def begin(self, model: str) -> msgspec.Struct | None:
        """Return nothing: the first chunk is text; see `Writer`."""
        self._model = model
        return None

    def text(self, piece: str) -> msgspec.Struct:
        """Return the next piece; see `Writer`."""
        return self._part(completion.CompletionChoice(piece), usage=self._no_usage)

    def end(self, done: Done) -> list[msgspec.Struct]:
        """Return why it ended, and the counts, where they are asked for; see `Writer`."""
        choice = completion.CompletionChoice("", FINISH[done.finish])
        last = self._part(choice, usage=self._no_usage, ainet=ours(done))
        if not self._asked.includes_usage:
            return [last]
        return [last, completion.Completion(**self._named(choices=[], usage=usage(done)))]

    def whole(self, done: Done) -> msgspec.Struct:
        """Return the whole text; see `Writer`."""
        self._model = done.model
        choice = completion.CompletionChoice(done.text, FINISH[done.finish])
        return self._part(choice, usage=usage(done), ainet=ours(done))

    def _part(self, choice: completion.CompletionChoice, **more: Any) -> completion.Completion:
        return completion.Completion(**self._named(choices=[choice], **more))


def usage(done: Done) -> chat.Usage:
    """Return the counts of an answer's tokens."""
    n, told = len(done.tokens), done.timings
    details = chat.PromptDetails(told.reused_tokens)
    return chat.Usage(told.prompt_tokens, n, told.prompt_tokens + n, details)


def ours(done: Done) -> dict[str, Any]:
    """Return what only this node knows of an answer."""
    found: dict[str, Any] = msgspec.to_builtins(done)
    return {name: found[name] for name in ("placement", "timings", "seed", "notes", "citations", "bought")}
