"""Failures in the form in which OpenAI's clients know them."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ainet.errors import (
    AinetError,
    Busy,
    CannotSplit,
    ModelError,
    NodeNotRunning,
    NodeTaken,
    NotEnough,
    NotFound,
    PeerUnreachable,
    PromptTooLong,
    Refused,
    TooLarge,
    UsageError,
)

#: HTTP status, type and code of each error; the first that fits counts.
_KINDS: tuple[tuple[type[AinetError], int, str, str | None], ...] = (
    (PromptTooLong, 400, "invalid_request_error", "context_length_exceeded"),
    (NotFound, 404, "invalid_request_error", "model_not_found"),
    (ModelError, 400, "invalid_request_error", "model_unusable"),
    (CannotSplit, 400, "invalid_request_error", None),
    (NodeTaken, 503, "server_error", "elsewhere"),
    (TooLarge, 413, "invalid_request_error", None),
    (UsageError, 400, "invalid_request_error", None),
    (Busy, 429, "rate_limit_error", "rate_limit_exceeded"),
    (NodeNotRunning, 503, "server_error", "loading"),
    (NotEnough, 503, "server_error", "no_memory"),
    (PeerUnreachable, 503, "server_error", "no_device"),
    (Refused, 403, "permission_error", None),
)
#: Seconds after which a client asks again, where nothing else is known.
AGAIN = 5


class Failure(msgspec.Struct, frozen=True):
    """What went wrong, and in which parameter."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class FailureBody(msgspec.Struct, frozen=True):
    """A failure as it travels."""

    error: Failure


def bad(param: str, words: str) -> UsageError:
    """Return the error for a parameter."""
    return UsageError(words, param=param)


def failure(error: AinetError) -> tuple[int, FailureBody]:
    """Return the HTTP status of an error, and what is sent."""
    for kind, status, name, code in _KINDS:
        if isinstance(error, kind):
            param = error.details.get("param") or _param(error, kind)
            return status, FailureBody(Failure(error.message, name, param, code))
    return 500, FailureBody(Failure(error.message, "server_error"))


def _param(error: AinetError, kind: type[AinetError]) -> str | None:
    """Return which parameter an error is about, where its words begin with its name."""
    if kind is NotFound or kind is ModelError:
        return "model"
    if kind is CannotSplit:
        return "ainet.stages"
    if "JSON schema" in error.message:
        return "response_format"
    if kind is PromptTooLong:
        return "messages"
    found = re.match(r"([a-z]+(?:_[a-z]+)+|seed|temperature|stages) (?:is|names|has) ", error.message)
    return found[1] if found is not None else None


def retry_after(error: AinetError) -> int | None:
    """Return after how many seconds to ask again; None where that is of no use."""
    if isinstance(error, Busy):
        return max(1, round(float(error.details.get("retry_after", 1))))
    return AGAIN if isinstance(error, NodeNotRunning | NotEnough | PeerUnreachable) else None


def detail(error: AinetError) -> dict[str, Any]:
    """Return an error as the data of an event."""
    return {"error": msgspec.to_builtins(failure(error)[1].error)}
