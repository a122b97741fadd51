"""Requests on a link while they are answered, and how their messages are written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.errors import ProtocolError
from ainet.links.frames import MAX_FRAME, WINDOW
from ainet.links.standing import Standing

if TYPE_CHECKING:
    from ainet.links.frames import Failure, Item, Reply
    from ainet.links.request import Request

MAX_CALLS = 64  # requests of one peer that are answered at once
#: Of a stranger: these requests at once, of so many bytes, and so many bytes before the first one is answered.
STRANGER_CALLS, STRANGER_FRAME, MAX_EARLY = 4, 512 * 1024, 16 * 1024


def limits(standing: Standing) -> tuple[int, int, int | None]:
    """Return how many requests of a peer are answered at once, the bytes of a frame, and of all at first."""
    if standing is Standing.STRANGER:
        return STRANGER_CALLS, STRANGER_FRAME, MAX_EARLY
    return MAX_CALLS, MAX_FRAME, None


class Outgoing:
    """A request of ours that waits for its answer."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Item | Reply | Failure] = asyncio.Queue()
        self.taken = 0
        self.ended = False


class Incoming:
    """A request of the peer that is being answered."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self._credit = asyncio.Semaphore(WINDOW)

    async def spend(self) -> None:
        """Wait until the asker takes another item."""
        await self._credit.acquire()

    def grant(self, count: int) -> None:
        """Let `count` more items be sent."""
        for _ in range(count):
            self._credit.release()


def encode(message: msgspec.Struct | None) -> msgspec.Raw:
    """Return a message as it travels inside a frame."""
    return msgspec.Raw(msgspec.msgpack.encode(message))


def decode(body: msgspec.Raw, kind: type[msgspec.Struct] | None) -> Any:
    """Return the message in `body` as a `kind`; raises `ProtocolError` when it is none."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise ProtocolError(f"This is no {kind.__name__ if kind else 'empty message'} ({exc}).") from exc


def check(message: object, kind: type[msgspec.Struct] | None, request: type[Request]) -> None:
    """Raise `TypeError` when a handler of this device answers with something else than it promised."""
    if not isinstance(message, kind or type(None)):
        raise TypeError(f"{type(message).__name__} is not what {request.__name__} is answered with.")
