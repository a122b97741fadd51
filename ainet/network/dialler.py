"""Dialling: the first of several addresses at which a device answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ainet.errors import AinetError, PeerUnreachable, Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")

#: The next address is tried when the one before has not answered for so long (s); as RFC 8305 recommends.
STAGGER = 0.25


class Attempts(NamedTuple):
    """What came of trying addresses: words for each that did not answer, and the last refusal."""

    reasons: list[str]
    refused: Refused | None


async def first(addresses: Sequence[str], attempt: Callable[[str], Awaitable[T]]) -> T | Attempts:
    """Try the addresses in their order, a slow one and the next at the same time; return what the first one gives.

    Parameters
    ----------
    attempt
        Tries one address; raises `PeerUnreachable` or `Refused`.
    """
    waiting = list(addresses)
    tasks: dict[asyncio.Future[T], str] = {}
    reasons: list[str] = []
    refused: Refused | None = None
    try:
        while waiting or tasks:
            if waiting:
                address = waiting.pop(0)
                tasks[asyncio.ensure_future(attempt(address))] = address
            patience = STAGGER if waiting else None
            done, _ = await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                address = tasks.pop(task)
                try:
                    return task.result()
                except Refused as exc:
                    refused = exc
                except PeerUnreachable as exc:
                    reasons.append(exc.message if exc.message.startswith(address) else f"{address}: {exc.message}")
                except AinetError as exc:
                    reasons.append(f"{address}: {exc.message}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return Attempts(reasons, refused)
