"""Signals: what one object tells whoever wants to hear it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, ParamSpec

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

P = ParamSpec("P")


class Signal(Generic[P]):
    """Callbacks that are called in the order in which they were connected; the failure of one stops no other.

    Parameters
    ----------
    what
        Names the event in the line that is logged when a callback fails.
    log
        The destination of that line.
    """

    def __init__(self, what: str, log: logging.Logger) -> None:
        self._what, self._log = what, log
        self._callbacks: list[Callable[P, object]] = []

    def connect(self, callback: Callable[P, object]) -> Callable[[], None]:
        """Call `callback` from now on; return what takes that back, also when it is called twice."""
        self._callbacks.append(callback)

        def disconnect() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return disconnect

    def emit(self, *arguments: P.args, **options: P.kwargs) -> None:
        """Call every callback; one that is connected or disconnected meanwhile counts from the next time on."""
        for callback in list(self._callbacks):
            try:
                callback(*arguments, **options)
            except Exception:
                self._log.exception("A callback failed: %s.", self._what)
