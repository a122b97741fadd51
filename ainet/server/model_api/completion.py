"""Texts that go on: ``/v1/completions``."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ainet.api.generate import GenerateRequest, Message
from ainet.api.logprobs import MOST_ALTERNATIVES
from ainet.server.model_api.chat import Usage
from ainet.server.model_api.failures import bad
from ainet.server.model_api.fields import MOST_ANSWERS, Sampling
from ainet.server.model_api.logprobs import TextLogprobs


class CompletionRequest(Sampling, frozen=True, kw_only=True):
    """Texts that are to go on."""

    prompt: str | list[Any] = ""
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """What is to go on: texts, or tokens. Raises `UsageError` for anything else."""
        given = self.prompt
        if isinstance(given, str) or (given and all(map(_is_token, given))):
            return [given]
        wrong = next((one for one in given if not isinstance(one, str) and not _is_tokens(one)), None)
        if wrong is not None or not given:
            raise bad("prompt", "prompt must be a text, tokens, or a list of texts or of lists of tokens.")
        return given

    @property
    def is_prompt_alone(self) -> bool:
        """Whether nothing but the prompt is wanted, with what is told of its tokens."""
        return bool(self.echo) and self.max_tokens == 0

    def to_generate(self) -> list[list[GenerateRequest]]:
        """Return the requests that a node answers; raises `UsageError` for what makes no sense."""
        if self.best_of is not None and self.best_of != self.n_answers:
            raise bad("best_of", f"best_of is {self.best_of}: as many answers are given as are made, {self.n_answers}.")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_ALTERNATIVES:
            raise bad("logprobs", f"logprobs is {self.logprobs}: from 0 to {MOST_ALTERNATIVES} alternatives are told.")
        if self.suffix and self.echo:
            raise bad("echo", "What stands between two texts is told alone: no echo with suffix.")
        prompts = self.prompts
        if len(prompts) * self.n_answers > MOST_ANSWERS:
            raise bad("prompt", f"A request has at most {MOST_ANSWERS} answers: n times the number of prompts.")
        return [self.several(self._request(prompt)) for prompt in prompts]

    def _request(self, prompt: str | list[int]) -> GenerateRequest:
        is_text = isinstance(prompt, str)
        if not prompt and not self.suffix:
            raise bad("prompt", "There is nothing to go on with: the prompt is empty.")
        if not is_text and self.suffix:
            raise bad("suffix", "A suffix goes with a text, not with tokens.")
        return self.generate_request(
            [Message("user", prompt)] if isinstance(prompt, str) else [],
            1 if self.is_prompt_alone else self.max_tokens,
            raw=is_text,
            prompt=[] if isinstance(prompt, str) else prompt,
            suffix=self.suffix or None,
            logprobs=self.logprobs,
            # What tokens say is known to the model alone.
            scores_prompt=bool(self.echo) and (self.logprobs is not None or not is_text),
        )


def _is_token(one: Any) -> bool:
    return isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 2**31


def _is_tokens(one: Any) -> bool:
    return isinstance(one, list) and bool(one) and all(map(_is_token, one))


class CompletionChoice(msgspec.Struct, frozen=True):
    """A text, or what is new of it, and why it ended."""

    text: str
    finish_reason: str | None = None
    index: int = 0
    logprobs: TextLogprobs | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """How texts go on, or a part of one."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    ainet: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    object: Literal["text_completion"] = "text_completion"
