"""A request from a notebook or a program, checked."""

from __future__ import annotations

import dataclasses
import secrets
from typing import TYPE_CHECKING

import msgspec

from ainet.api.generate import Message
from ainet.api.logprobs import MOST_ALTERNATIVES
from ainet.api.models import ModelSettings
from ainet.errors import PromptTooLong, UsageError
from ainet.models.ollama import PROJECTOR
from ainet.stages.protocol.generation import MAX_PROMPT, Open
from ainet.stages.protocol.json_schema import checked_schema
from ainet.stages.protocol.sampling_params import SamplingParams

if TYPE_CHECKING:
    from ainet.api.generate import GenerateRequest

MAX_STOPS = 16
MAX_STOP = 1000  # characters
MAX_TOKENS = 256  # when the request names no number
MOST_TOKENS = 2**31 - 1
#: Wishes for the drawing of tokens that stand in requests as in `SamplingParams`.
SAMPLING = (
    *("temperature", "top_k", "top_p", "min_p", "repeat_penalty"),
    *("frequency_penalty", "presence_penalty", "logit_bias", "seed", "grammar"),
)


def conversation(request: GenerateRequest) -> str:
    """Return all of a conversation as one text, by which it is known again."""
    tokens = turn("tokens", " ".join(map(str, request.prompt))) if request.prompt else ""
    return tokens or "".join(turn(message.role, message.content) for message in request.messages)


def to_open(request: GenerateRequest, settings: ModelSettings | None = None) -> tuple[Open, list[str]]:
    """Return a request in the checked form that a pipeline is asked with, and what its reader must know, in words.

    What the request leaves open is as the model's maker wants it (`settings`); a missing seed is drawn here.

    Raises
    ------
    UsageError
        For values that make no sense.
    PromptTooLong
        For a conversation that no message to a pipeline can hold.
    """
    _check_prompt(request)
    settings = settings or ModelSettings()
    request = _settled(request, settings)
    if request.max_tokens is not None and not 1 <= request.max_tokens <= MOST_TOKENS:
        raise UsageError(f"max_tokens is {request.max_tokens}; it must lie between 1 and {MOST_TOKENS}.")
    if request.stages is not None and request.stages < 1:
        raise UsageError(f"stages is {request.stages}; it must be at least 1.")
    if request.private and request.stages is not None:
        raise UsageError("Where the layers of a private question go follows from that: no --stages with --private.")
    if len(request.stop) > MAX_STOPS:
        raise UsageError(f"There are {len(request.stop)} stop strings; at most {MAX_STOPS} are allowed.")
    if (longest := max(map(len, request.stop), default=0)) > MAX_STOP:
        raise UsageError(f"A stop string has {longest} characters; at most {MAX_STOP} are allowed.")
    # As it will travel: many short turns weigh more than their texts.
    try:
        parts = request.messages, request.stop, request.prompt, request.suffix
        size = len(msgspec.msgpack.encode(parts))
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
    given = {name: value for name in SAMPLING if (value := getattr(request, name)) is not None}
    if "grammar" in given:
        given["grammar"] = given["grammar"].removeprefix("\N{BYTE ORDER MARK}")
    if "logit_bias" in given:
        given["logit_bias"] = tuple(sorted(given["logit_bias"].items()))
    given.setdefault("seed", secrets.randbits(31))
    passed: list[str] = []
    if request.json_schema is not None:
        given["json_schema"], passed = checked_schema(request.json_schema, loose=request.json_schema_loose)
    sampling = SamplingParams(**given)
    sampling.check()
    opened = Open(
        session=0,
        messages=request.messages,
        raw=request.raw,
        sampling=sampling,
        max_tokens=request.max_tokens or MAX_TOKENS,
        stop=request.stop,
        template="" if request.raw else settings.template,
        tells=True,
        prompt=request.prompt,
        suffix=request.suffix,
        logprobs=request.logprobs,
        scores_prompt=request.scores_prompt,
    )
    notes = [note for note in settings.notes if note == PROJECTOR]
    return opened, [*notes, *([f"the JSON schema's {', '.join(passed)} passed over"] if passed else [])]


def _check_prompt(request: GenerateRequest) -> None:
    """Raise `UsageError` where it is not clear what is to go on."""
    if request.prompt and (request.messages or request.suffix is not None):
        raise UsageError("A prompt is tokens or text, not both.", param="prompt")
    if not all(0 <= token < MOST_TOKENS for token in request.prompt):
        raise UsageError("The prompt names a number that is no token.", param="prompt")
    if request.suffix is not None and not (request.raw and request.messages):
        raise UsageError("A suffix goes with a text that is to be continued.", param="suffix")
    last = request.messages[-1].content if request.messages else ""
    has_text = bool(last if request.raw else last.strip())
    if not (has_text or request.prompt or (request.suffix or "").strip()):
        raise UsageError("There is nothing to answer: the question is empty.")
    if request.logprobs is not None and not 0 <= request.logprobs <= MOST_ALTERNATIVES:
        raise UsageError(
            f"logprobs is {request.logprobs}: from 0 to {MOST_ALTERNATIVES} alternatives are told of a token.",
            param="logprobs",
        )


def _settled(request: GenerateRequest, settings: ModelSettings) -> GenerateRequest:
    """Return a request whose open wishes are the model's own."""
    wishes = {name: value for name, value in settings.parameters.items() if getattr(request, name) in (None, [])}
    is_chat = not request.raw and not request.prompt
    if settings.system and is_chat and all(message.role != "system" for message in request.messages):
        wishes["messages"] = [Message("system", settings.system), *request.messages]
    return dataclasses.replace(request, **wishes)


def turn(role: str, content: str) -> str:
    """Return one turn of a conversation in the form in which it is known again."""
    return f"{role}\n{content}\n"
