"""Chats: ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ainet.api.generate import GenerateRequest, Message
from ainet.api.logprobs import MOST_ALTERNATIVES
from ainet.server.model_api.failures import bad
from ainet.server.model_api.fields import Sampling
from ainet.server.model_api.logprobs import ChatLogprobs

#: What roles are called by chat templates.
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class ContentPart(msgspec.Struct, frozen=True):
    """A part of a turn."""

    type: str
    text: str = ""
    refusal: str = ""


class Turn(msgspec.Struct, frozen=True):
    """A turn of a conversation."""

    role: str
    content: str | list[ContentPart] | None = None
    tool_calls: list[Any] | None = None


class JsonSchema(msgspec.Struct, frozen=True):
    """A schema that an answer follows."""

    schema: dict[str, Any] = msgspec.field(default_factory=dict)
    name: str = ""
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """The form of an answer."""

    type: str = "text"
    json_schema: JsonSchema | None = None


class ChatRequest(Sampling, frozen=True, kw_only=True):
    """A conversation that is to go on."""

    messages: list[Turn]
    max_completion_tokens: int | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None
    audio: Any = None

    def to_generate(self) -> list[list[GenerateRequest]]:
        """Return the requests that a node answers; raises `UsageError` for what is not known here."""
        for name in ("tools", "functions", "audio"):
            if getattr(self, name):
                raise bad(name, f"{name} is not known to this node yet, and would change the answer.")
        if self.modalities not in (None, [], ["text"]):
            raise bad("modalities", f"modalities is {self.modalities}: answers are text.")
        most = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        messages = [_message(n, one) for n, one in enumerate(self.messages)]
        if not messages or not messages[-1].content.strip():
            raise bad("messages", "There is nothing to answer: the question is empty.")
        request = self.generate_request(messages, most, **self._format(), logprobs=self._alternatives())
        return [self.several(request)]

    def _alternatives(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise bad("top_logprobs", "top_logprobs needs logprobs to be true.")
        if not 0 <= (self.top_logprobs or 0) <= MOST_ALTERNATIVES:
            raise bad("top_logprobs", f"top_logprobs is {self.top_logprobs}: from 0 to {MOST_ALTERNATIVES} are told.")
        return self.top_logprobs or 0 if self.logprobs else None

    def _format(self) -> dict[str, Any]:
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return {}
        if wanted.type == "json_object":
            return {"json_schema": {"type": "object"}}
        if wanted.type == "json_schema" and wanted.json_schema is not None:
            return {"json_schema": wanted.json_schema.schema}
        raise bad("response_format", f"response_format is {wanted.type[:40]!r}: text, json_object or json_schema.")


def _message(n: int, one: Turn) -> Message:
    where = f"messages[{n}]"
    if one.role not in ROLES:
        raise bad(f"{where}.role", f"The role {one.role[:40]!r} is not known to this node: {', '.join(ROLES)} are.")
    if one.tool_calls:
        raise bad(f"{where}.tool_calls", "Tools are not known to this node yet.")
    if isinstance(one.content, str) or one.content is None:
        return Message(ROLES[one.role], one.content or "")
    for part in one.content:
        if part.type not in ("text", "input_text", "refusal"):
            raise bad(f"{where}.content", f"A part of type {part.type[:40]!r} cannot be read: conversations are text.")
    return Message(ROLES[one.role], "".join(part.text or part.refusal for part in one.content))


class PromptDetails(msgspec.Struct, frozen=True):
    """Tokens of the prompt that were computed for an earlier question."""

    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class ChatMessage(msgspec.Struct, frozen=True):
    """What was said."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    """An answer, and why it ended."""

    message: ChatMessage
    finish_reason: str
    index: int = 0
    logprobs: ChatLogprobs | None = None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    ainet: dict[str, Any]
    object: Literal["chat.completion"] = "chat.completion"


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is new of an answer."""

    role: str | None = None
    content: str | None = None


class DeltaChoice(msgspec.Struct, frozen=True):
    """What is new of an answer, and why it ended, once it has."""

    delta: Delta
    finish_reason: str | None = None
    index: int = 0
    logprobs: ChatLogprobs | None = None


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A part of an answer that streams."""

    id: str
    created: int
    model: str
    choices: list[DeltaChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    ainet: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
