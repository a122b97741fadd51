"""News of a node: whoever listens is told what has changed, at most ten times a second, and never what is old.

What there is of a kind is looked at only while somebody listens, and only after its owner has said that it changed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, get_args

from ainet.api import news as shown
from ainet.errors import AinetError, Busy, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping

    #: Returns all there is of a kind, by key.
    View = Callable[[], Awaitable[Mapping[str, Any]]]

#: Seconds between two news for one listener.
EVERY = 0.1
#: What could not be looked at is looked at again after so many seconds.
AGAIN = 1.0
#: Those who listen at the same time.
MOST_LISTENERS = 64
KINDS: tuple[shown.Kind, ...] = get_args(shown.Kind)


class _Kind:
    """What there is of one kind, as it was when it was looked at last."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.now: Mapping[str, Any] = {}
        self.is_known = False
        self.looking = asyncio.Lock()


class _Listener:
    def __init__(self, kinds: Collection[shown.Kind]) -> None:
        self.kinds = frozenset(kinds)
        self.waiting = set(kinds)
        self.told = asyncio.Event()
        self.told.set()


class NewsDesk:
    """Knows who listens, and tells them."""

    def __init__(self, log: logging.Logger, *, every: float = EVERY) -> None:
        self._log, self._every = log, every
        self._kinds: dict[shown.Kind, _Kind] = {}
        self._listeners: set[_Listener] = set()
        self._is_over = False

    def stop(self) -> None:
        """End all listening: the parts of the node are about to stop."""
        self._is_over = True
        for listener in self._listeners:
            listener.told.set()

    def add(self, kind: shown.Kind, view: View) -> Callable[..., None]:
        """Let there be news of a kind; returns what is to be called, with anything, whenever something has changed."""
        if kind in self._kinds:
            raise ValueError(f"There are two views of {kind}.")
        self._kinds[kind] = _Kind(view)
        return lambda *_: self.touch(kind)

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def is_heard(self, kind: shown.Kind) -> bool:
        """Whether somebody listens to news of a kind."""
        return any(kind in listener.kinds for listener in self._listeners)

    def touch(self, kind: shown.Kind) -> None:
        """Note that something of a kind may have changed."""
        self._kinds[kind].is_known = False
        for listener in self._listeners:
            if kind in listener.kinds:
                self._tell(listener, kind)

    async def listen(self, kinds: Collection[str] = ()) -> AsyncGenerator[shown.News, None]:
        """Yield all there is of some kinds, then what changes.

        Parameters
        ----------
        kinds
            None for all.

        Raises
        ------
        UsageError
            There is no such kind.
        Busy
            Too many listen.
        """
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise UsageError(f"There is no news of {', '.join(map(repr, unknown))[:200]}, but of {', '.join(KINDS)}.")
        if len(self._listeners) >= MOST_LISTENERS:
            raise Busy(f"{MOST_LISTENERS} listen already.", retry_after=5.0)
        listener = _Listener([kind for kind in self._kinds if not kinds or kind in kinds])
        for kind in listener.kinds - {one for other in self._listeners for one in other.kinds}:
            self._kinds[kind].is_known = False  # nobody has listened for a while
        told: dict[shown.Kind, Mapping[str, Any]] = {}
        self._listeners.add(listener)
        try:
            while True:
                await listener.told.wait()
                listener.told.clear()
                if self._is_over:
                    return
                waiting, listener.waiting = listener.waiting, set()
                found: dict[str, shown.Changes[Any]] = {}
                for kind in waiting:
                    now = await self._look(kind)
                    if now is None:
                        asyncio.get_running_loop().call_later(AGAIN, self._tell, listener, kind)
                        continue
                    changes = _changes(told.get(kind), now)
                    told[kind] = now
                    if changes is not None:
                        found[kind] = changes
                if found:
                    yield shown.News(**found)
                await asyncio.sleep(self._every)
        finally:
            self._listeners.discard(listener)

    @staticmethod
    def _tell(listener: _Listener, kind: shown.Kind) -> None:
        listener.waiting.add(kind)
        listener.told.set()

    async def _look(self, kind: shown.Kind) -> Mapping[str, Any] | None:
        """Return all there is of a kind; None where that cannot be known now. All listeners have the same look."""
        known = self._kinds[kind]
        async with known.looking:
            if not known.is_known:
                known.is_known = True  # what changes from now on is for the next look
                try:
                    known.now = await known.view()
                except BaseException as exc:
                    known.is_known = False
                    if not isinstance(exc, Exception):
                        raise
                    self._log.log(_level(exc), "What there is of %s cannot be looked at: %s", kind, exc)
                    return None
            return known.now


def _level(exc: Exception) -> int:
    return logging.INFO if isinstance(exc, AinetError) else logging.WARNING


def _changes(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> shown.Changes[Any] | None:
    if before is None:
        return shown.Changes(dict(now), is_whole=True)
    changed = {key: value for key, value in now.items() if before.get(key) != value}
    gone = [key for key in before if key not in now]
    return shown.Changes(changed, gone) if changed or gone else None
