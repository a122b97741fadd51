"""Errors, in words that say what to do.

Every error that a user can act on is an `AinetError`. It travels as a small dictionary over HTTP, over peer links and
between stages, and arrives as the same class: whoever shows it shows its message and nothing else.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ainet.printable import visible

#: The classes that travel, by their codes.
_BY_CODE: dict[str, type[AinetError]] = {}


class AinetError(Exception):
    """An error whose message tells the user what happened and what to do.

    Parameters
    ----------
    message
        One or two sentences.
    details
        JSON-compatible facts for programs (sizes in bytes, times in seconds).
    """

    #: The name of the class on its way. One that does not name its own arrives as the class that it is made from.
    code: ClassVar[str] = "failed"
    #: The HTTP status that a handler answers with.
    status: ClassVar[int] = 500

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "code" in vars(cls):
            if cls.__module__ != __name__:
                raise TypeError(f"{cls.__name__} travels, so every device must know it: it belongs into {__name__}.")
            if cls.code in _BY_CODE:
                raise TypeError(f"Two errors have the code {cls.code!r}.")
            _BY_CODE[cls.code] = cls

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.to_dict(),)

    def _render_traceback_(self) -> list[str]:
        # IPython asks for it: a cell shows the message alone.
        return [visible(f"{type(self).__name__}: {self.message}")]

    def to_dict(self) -> dict[str, Any]:
        """Return the form that travels."""
        return {"code": self.code, "message": self.message, "details": self.details}

    @staticmethod
    def from_dict(data: Any) -> AinetError:
        """Rebuild the error that `to_dict` described; anything else becomes a plain `AinetError`."""
        if not isinstance(data, dict):
            return AinetError("An error without a description arrived.")
        details = data.get("details")
        kind = _BY_CODE.get(str(data.get("code")), AinetError)
        words = {str(key): value for key, value in details.items()} if isinstance(details, dict) else {}
        error = kind(str(data.get("message", "unknown error")))
        error.details.update(words)
        return error


class UsageError(AinetError):
    """The request itself makes no sense."""

    code = "usage"
    status = 400


class NodeNotRunning(AinetError):
    """No node of this user runs on the data directory."""

    code = "not-running"
    status = 503


class NodeTaken(AinetError):
    """Another process is already the node of the data directory."""

    code = "taken"
    status = 409


class TooLarge(AinetError):
    """The body of a request exceeds the limit."""

    code = "too-large"
    status = 413


class NotFound(AinetError):
    """The named model, member or pipeline does not exist here."""

    code = "not-found"
    status = 404


class ModelError(AinetError):
    """A model file is damaged, hostile or not what it claims to be."""

    code = "model"
    status = 422


class CannotSplit(AinetError):
    """The architecture does not allow this cut, or any."""

    code = "cannot-split"
    status = 422


class NotEnough(AinetError):
    """Memory, disk, threads or devices do not suffice within the owner's caps."""

    code = "not-enough"
    status = 507


class Busy(AinetError):
    """The queue is full; `details["retry_after"]` says after how many seconds to ask again."""

    code = "busy"
    status = 503


class PromptTooLong(AinetError):
    """The prompt does not fit into the context window."""

    code = "prompt-too-long"
    status = 413


class Refused(AinetError):
    """A ticket, certificate, token or request was not accepted."""

    code = "refused"
    status = 403


class IdentityTaken(Refused):
    """Another device works with the same identity, and did so before this one."""

    code = "identity_taken"


class PeerUnreachable(AinetError):
    """Another device does not answer."""

    code = "unreachable"
    status = 502


class LeaseLost(AinetError):
    """Another member does the same, in the name of a later lease."""

    code = "lease-lost"
    status = 409


class StageLost(AinetError):
    """A stage of the pipeline went away while it worked."""

    code = "stage-lost"
    status = 502


class ProtocolError(AinetError):
    """Bytes from outside do not form an allowed message."""

    code = "protocol"
    status = 400


def _rebuild(data: dict[str, Any]) -> AinetError:
    return AinetError.from_dict(data)
