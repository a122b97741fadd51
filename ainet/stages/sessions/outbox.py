"""Gathers the words for a requester: telling it of each token apart would slow the stages that make the next one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ainet.stages.protocol.generation import Event, Text
from ainet.timing import TIMING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Outbox:
    """Passes events from the decode thread to an event loop, in their order.

    Text that comes soon after other text waits, and travels as one event; whatever else comes goes at once, and takes
    the text before it along. For one session.

    Parameters
    ----------
    loop
        Where `send` is called.
    send
        Takes each event.
    gather
        Seconds that text may wait for more of it.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, send: Callable[[Event], None], *, gather: float = TIMING.gather
    ) -> None:
        self._gather = gather
        self._loop = loop
        self._send = send
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._is_due = False  # whether what is put will be sent without waking the loop
        self._is_text = False  # whether text was put last
        self._timer: asyncio.TimerHandle | None = None

    def put(self, event: Event) -> None:
        """Send `event`, soon. Called in any thread."""
        with self._lock:
            may_wait = self._is_due and self._is_text and isinstance(event, Text)
            last = self._events[-1] if self._events else None
            if isinstance(last, Text) and isinstance(event, Text):
                tokens, laps = [*last.tokens, *event.tokens], [*last.laps, *event.laps]
                margins = [*last.margins, *event.margins]
                logprobs = [*last.logprobs, *event.logprobs]
                self._events[-1] = Text(event.session, last.text + event.text, tokens, laps, margins, logprobs)
            else:
                self._events.append(event)
            self._is_due, self._is_text = True, isinstance(event, Text)
        if not may_wait:
            self._loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        with self._lock:
            events, self._events = self._events, []
            self._is_due = bool(events)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._gather, self._flush) if events else None
        for event in events:
            self._send(event)
