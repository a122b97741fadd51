"""A request as it comes from a notebook or a program."""

from __future__ import annotations

import secrets

import msgspec

from ainet.errors import PromptTooLong, UsageError
from ainet.stages.protocol.generation import MAX_PROMPT, Message, Open
from ainet.stages.protocol.sampling_params import SamplingParams

MAX_STOPS = 16
MAX_STOP = 1000  # characters
MAX_TOKENS = 256  # when the request names no number
MOST_TOKENS = 2**31 - 1


class GenerateRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What to answer and how; None leaves the choice to the node.

    Attributes
    ----------
    messages
        The conversation, its last turn the question.
    model
        Name, path or digest of a model.
    stages
        Number of stages to force.
    raw
        Whether the last message is completed as plain text, without chat template.
    max_tokens
        Most tokens to generate.
    stop
        Texts that end the answer.
    json_schema
        JSON schema that the answer follows.
    """

    messages: list[Message]
    model: str | None = None
    stages: int | None = None
    raw: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: list[str] = []
    grammar: str | None = None
    json_schema: dict[str, object] | None = None

    @property
    def text(self) -> str:
        """All of the conversation, by which it is known again."""
        return "".join(turn(message.role, message.content) for message in self.messages)

    def to_open(self) -> Open:
        """Return the checked form that a pipeline is asked with; a missing seed is drawn here.

        Raises
        ------
        UsageError
            For values that make no sense.
        PromptTooLong
            For a conversation that no message to a pipeline can hold.
        """
        if not self.messages or not self.messages[-1].content.strip():
            raise UsageError("There is nothing to answer: the question is empty.")
        if self.max_tokens is not None and not 1 <= self.max_tokens <= MOST_TOKENS:
            raise UsageError(f"max_tokens is {self.max_tokens}; it must lie between 1 and {MOST_TOKENS}.")
        if self.stages is not None and self.stages < 1:
            raise UsageError(f"stages is {self.stages}; it must be at least 1.")
        if len(self.stop) > MAX_STOPS:
            raise UsageError(f"There are {len(self.stop)} stop strings; at most {MAX_STOPS} are allowed.")
        if (longest := max(map(len, self.stop), default=0)) > MAX_STOP:
            raise UsageError(f"A stop string has {longest} characters; at most {MAX_STOP} are allowed.")
        # As it will travel: many short turns weigh more than their texts.
        try:
            size = len(msgspec.msgpack.encode((self.messages, self.stop)))
        except UnicodeEncodeError as exc:
            raise UsageError(
                f"The prompt or a stop string is not valid Unicode: {exc.reason} at character {exc.start}."
            ) from exc
        if size > MAX_PROMPT:
            raise PromptTooLong(
                f"The prompt has {size} bytes; at most {MAX_PROMPT} are allowed. Shorten it.",
                prompt_bytes=size,
                most_bytes=MAX_PROMPT,
            )
        given = {
            name: value
            for name in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "grammar")
            if (value := getattr(self, name)) is not None
        }
        given.setdefault("seed", secrets.randbits(31))
        if self.json_schema is not None:
            given["json_schema"] = msgspec.json.encode(self.json_schema).decode()
        sampling = SamplingParams(**given)
        sampling.check()
        return Open(
            session=0,
            messages=self.messages,
            raw=self.raw,
            sampling=sampling,
            max_tokens=self.max_tokens or MAX_TOKENS,
            stop=self.stop,
        )


def turn(role: str, content: str) -> str:
    """Return one turn of a conversation in the form in which it is known again."""
    return f"{role}\n{content}\n"
