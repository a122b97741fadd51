"""Texts that go on: ``/v1/completions``."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ainet.api.generate import GenerateRequest, Message
from ainet.server.model_api.chat import Usage
from ainet.server.model_api.failures import bad
from ainet.server.model_api.fields import Sampling


class CompletionRequest(Sampling, frozen=True, kw_only=True):
    """A text that is to go on."""

    prompt: str | list[Any] = ""
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None

    def to_generate(self) -> GenerateRequest:
        """Return the request that a node answers; raises `UsageError` for what is not known here."""
        for name in ("suffix", "echo", "logprobs"):
            if getattr(self, name):
                raise bad(name, f"{name} is not known to this node yet, and would change the answer.")
        if self.best_of not in (None, 1):
            raise bad("best_of", f"best_of is {self.best_of}: one answer is given for each request.")
        texts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(texts) != 1 or not isinstance(texts[0], str):
            raise bad("prompt", "prompt must be one text: several, and tokens, are not known to this node yet.")
        return self.generate_request([Message("user", texts[0])], self.max_tokens, raw=True)


class CompletionChoice(msgspec.Struct, frozen=True):
    """A text, or what is new of it, and why it ended."""

    text: str
    finish_reason: str | None = None
    index: int = 0
    logprobs: None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """How a text goes on, or a part of it."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    ainet: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    object: Literal["text_completion"] = "text_completion"
