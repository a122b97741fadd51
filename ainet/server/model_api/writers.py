"""Answers in the forms of OpenAI's API, whole or as they grow."""

from __future__ import annotations

import dataclasses
import secrets
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from ainet.api.generate import Done, PromptScored, Start, Text
from ainet.server.model_api import chat, completion
from ainet.server.model_api.logprobs import TextLogprobs, TextScores, of_chat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.api.generate import Event
    from ainet.api.logprobs import TokenLogprob
    from ainet.server.model_api.chat import ChatRequest
    from ainet.server.model_api.completion import CompletionRequest
    from ainet.server.model_api.fields import Sampling

#: Why answers end, in their words.
FINISH = {"stop": "stop", "length": "length", "context": "length"}
Asked = TypeVar("Asked", bound="Sampling")


class Writer(Protocol):
    """Puts the answers to one request into the form in which a client knows them."""

    def receive(self, number: int, event: Event) -> list[msgspec.Struct]:
        """Return the chunks that tell of an event of an answer."""

    def end(self) -> list[msgspec.Struct]:
        """Return the chunks behind all answers."""

    def whole(self, done: Sequence[Done]) -> msgspec.Struct:
        """Return all answers, in their order."""


class _Writer:
    def __init__(self, prefix: str, asked: Sampling) -> None:
        self._counts = asked.includes_usage
        self._n_answers = asked.n_answers
        self._id = f"{prefix}-{secrets.token_hex(12)}"
        self._created, self._model = int(time.time()), asked.model or ""
        self._begun: set[int] = set()
        self._done: dict[int, Done] = {}

    def _begins(self, number: int, event: Event) -> bool:
        """Note that an answer begins, where it does; when another pipeline goes on with it that is said again."""
        if not isinstance(event, Start) or number in self._begun:
            return False
        self._begun.add(number)
        self._model = event.model
        return True

    @property
    def _no_usage(self) -> msgspec.UnsetType | None:
        """What chunks before the last one say of usage, where the last one counts."""
        return None if self._counts else msgspec.UNSET

    def _usage(self, done: Sequence[Done]) -> chat.Usage:
        """Return the counts of all answers; a prompt counts once, however many answers it has."""
        told = [one.timings for one in done[:: self._n_answers]]
        prompt = sum(one.prompt_tokens for one in told)
        n = sum(len(one.tokens) for one in done)
        return chat.Usage(prompt, n, prompt + n, chat.PromptDetails(sum(one.reused_tokens for one in told)))

    def _named(self, **more: Any) -> dict[str, Any]:
        return {"id": self._id, "created": self._created, "model": self._model, **more}


class ChatWriter(_Writer):
    """Chats."""

    def __init__(self, asked: ChatRequest) -> None:
        super().__init__("chatcmpl", asked)

    def receive(self, number: int, event: Event) -> list[msgspec.Struct]:
        """Return who speaks, what is new of it, or why it ended; see `Writer`."""
        if self._begins(number, event):
            return [self._chunk(number, chat.Delta(role="assistant", content=""))]
        if isinstance(event, Text) and (event.text or event.logprobs):
            return [self._chunk(number, chat.Delta(content=event.text), event.logprobs)]
        if isinstance(event, Done):
            self._done[number] = event
            return [self._chunk(number, chat.Delta(), finish=FINISH[event.finish], ainet=ours(event))]
        return []

    def end(self) -> list[msgspec.Struct]:
        """Return the counts, where they are asked for; see `Writer`."""
        if not self._counts:
            return []
        done = [self._done[number] for number in sorted(self._done)]
        return [chat.ChatChunk(**self._named(choices=[], usage=self._usage(done)))]

    def whole(self, done: Sequence[Done]) -> msgspec.Struct:
        """Return the whole answers; see `Writer`."""
        self._model = done[0].model
        choices = [
            chat.ChatChoice(
                chat.ChatMessage(one.text), FINISH[one.finish], number, of_chat(one.logprobs) if one.logprobs else None
            )
            for number, one in enumerate(done)
        ]
        return chat.ChatCompletion(**self._named(choices=choices, usage=self._usage(done), ainet=ours(done[0])))

    def _chunk(
        self,
        number: int,
        delta: chat.Delta,
        logprobs: list[TokenLogprob] | None = None,
        *,
        finish: str | None = None,
        **more: Any,
    ) -> chat.ChatChunk:
        choice = chat.DeltaChoice(delta, finish, number, of_chat(logprobs) if logprobs else None)
        return chat.ChatChunk(**self._named(choices=[choice], usage=self._no_usage, **more))


class CompletionWriter(_Writer):
    """Texts that go on."""

    def __init__(self, asked: CompletionRequest) -> None:
        super().__init__("cmpl", asked)
        self._echoes, self._is_prompt_alone = bool(asked.echo), asked.is_prompt_alone
        self._prompts = [text if isinstance(text, str) else None for text in asked.prompts]
        self._has_logprobs, self._has_alternatives = asked.logprobs is not None, bool(asked.logprobs)
        self._told: dict[int, TextScores] = {}

    def receive(self, number: int, event: Event) -> list[msgspec.Struct]:
        """Return what is new of a text, or why it ended; see `Writer`."""
        if self._begins(number, event) and self._echoes and (given := self._prompt(number)) is not None:
            return [self._part(number, given)]
        if isinstance(event, PromptScored):
            text, told = self._scores(number).prompt(event.begin, event.logprobs)
            return [self._part(number, text, told)] if told is not None else []
        if isinstance(event, Text) and (event.text or event.logprobs) and not self._is_prompt_alone:
            return [self._part(number, event.text, self._scores(number).answer(event.logprobs))]
        if isinstance(event, Done):
            event = self._done[number] = self._shown(event)
            return [self._part(number, "", finish=FINISH[event.finish], ainet=ours(event))]
        return []

    def end(self) -> list[msgspec.Struct]:
        """Return the counts, where they are asked for; see `Writer`."""
        if not self._counts:
            return []
        done = [self._done[number] for number in sorted(self._done)]
        return [completion.Completion(**self._named(choices=[], usage=self._usage(done)))]

    def whole(self, done: Sequence[Done]) -> msgspec.Struct:
        """Return the whole texts; see `Writer`."""
        self._model = done[0].model
        done = [self._shown(one) for one in done]
        choices = [self._choice(number, one) for number, one in enumerate(done)]
        return completion.Completion(**self._named(choices=choices, usage=self._usage(done), ainet=ours(done[0])))

    def _shown(self, done: Done) -> Done:
        """Return an answer as it is told: of a prompt alone, one token more was made."""
        if not self._is_prompt_alone:
            return done
        return dataclasses.replace(done, text="", tokens=[], logprobs=[], finish="length")

    def _choice(self, number: int, done: Done) -> completion.CompletionChoice:
        scores = self._scores(number)
        text, prompt = scores.prompt(0, done.prompt_logprobs)
        told = _joined(prompt, scores.answer(done.logprobs)) if self._has_logprobs else None
        before = (self._prompt(number) or text) if self._echoes else ""
        return completion.CompletionChoice(before + done.text, FINISH[done.finish], number, told)

    def _prompt(self, number: int) -> str | None:
        """Return the prompt of an answer, if it is a text."""
        return self._prompts[number // self._n_answers]

    def _scores(self, number: int) -> TextScores:
        if number not in self._told:
            given = self._prompt(number) if self._echoes else None
            self._told[number] = TextScores(has_alternatives=self._has_alternatives, given=given)
        return self._told[number]

    def _part(
        self, number: int, text: str, told: TextLogprobs | None = None, *, finish: str | None = None, **more: Any
    ) -> completion.Completion:
        choice = completion.CompletionChoice(text, finish, number, told if self._has_logprobs else None)
        return completion.Completion(**self._named(choices=[choice], usage=self._no_usage, **more))


def _joined(first: TextLogprobs | None, second: TextLogprobs | None) -> TextLogprobs | None:
    if first is None or second is None:
        return first or second
    top = [*first.top_logprobs, *second.top_logprobs] if first.top_logprobs and second.top_logprobs else None
    return TextLogprobs(
        [*first.tokens, *second.tokens],
        [*first.token_logprobs, *second.token_logprobs],
        top,
        [*first.text_offset, *second.text_offset],
    )


def ours(done: Done) -> dict[str, Any]:
    """Return what only this node knows of an answer."""
    names = ("placement", "timings", "seed", "notes", "citations", "bought")
    found: dict[str, Any] = msgspec.to_builtins({name: getattr(done, name) for name in names})
    return found
