"""What requests of OpenAI's API say, as far as it changes an answer; what has no effect here is passed over.

(OpenAI, "API reference", 2026. Names and defaults are theirs; `ainet` holds what only this node knows.)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from ainet.api.generate import GenerateRequest, Message
from ainet.executor.request import MAX_STOP, MOST_TOKENS
from ainet.server.model_api.failures import bad

#: Most texts that end an answer, in their API.
MOST_STOPS = 16
#: Most answers to one request.
MOST_ANSWERS = 128
#: Digits of the largest token.
LONGEST = 10


class StreamOptions(msgspec.Struct, frozen=True):
    """Whether the last chunk counts tokens."""

    include_usage: bool = False


class Ours(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What only this node knows; see `GenerateRequest`."""

    stages: int | None = None
    context: str | None = None
    private: bool = False
    seller: str | None = None
    budget: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    grammar: str | None = None
    json_schema_loose: bool = False


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """What chats and completions have in common."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ainet: Ours | None = None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def n_answers(self) -> int:
        """How many answers each prompt gets; raises `UsageError` for none, and for too many."""
        n = 1 if self.n is None else self.n
        if not 1 <= n <= MOST_ANSWERS:
            raise bad("n", f"n is {n}: a request has between 1 and {MOST_ANSWERS} answers.")
        return n

    def several(self, request: GenerateRequest) -> list[GenerateRequest]:
        """Return the requests for all answers to one prompt, each with a seed of its own."""
        seed = request.seed
        if seed is None:
            return [request] * self.n_answers
        more = [dataclasses.replace(request, seed=(seed + i) % 2**63) for i in range(1, self.n_answers)]
        return [request, *more]

    def generate_request(self, messages: list[Message], most: int | None, **more: Any) -> GenerateRequest:
        """Return the request that a node answers; without `most` the answer may fill the context.

        Raises
        ------
        UsageError
            A value makes no sense, or is not known here.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stop) > MOST_STOPS or max(map(len, stop), default=0) > MAX_STOP:
            raise bad("stop", f"There may be {MOST_STOPS} stop texts of {MAX_STOP} characters.")
        if most is not None and not 1 <= most <= MOST_TOKENS:
            raise bad("max_tokens", f"max_tokens must lie between 1 and {MOST_TOKENS}.")
        ours = self.ainet or Ours()
        asked: dict[str, Any] = {
            "messages": messages,
            "model": self.model or None,
            "max_tokens": MOST_TOKENS if most is None else most,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "logit_bias": _biases(self.logit_bias),
            "seed": self.seed,
            "stop": [text for text in stop if text],
            **{name: getattr(ours, name) for name in ours.__struct_fields__},
        }
        return GenerateRequest(**(asked | more))


def _biases(given: dict[str, float] | None) -> dict[int, float] | None:
    if not given:
        return None
    wrong = [token for token in given if not (token.isdecimal() and len(token) <= LONGEST)]
    if wrong:
        raise bad("logit_bias", f"logit_bias names {wrong[0][:40]!r}, which is no token.")
    return {int(token): bias for token, bias in given.items()}
