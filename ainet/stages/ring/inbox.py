"""The events for which a decode thread waits: commands from other threads, and frames from the stage before it."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from ainet.stages.ring.frames import arrivals

if TYPE_CHECKING:
    import select
    from collections.abc import Callable

    from ainet.stages.ring.frames import RingConnection


class Inbox:
    """Commands for a decode thread, which waits for them and for frames at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._commands: list[Callable[[], None]] = []
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._waiting: dict[RingConnection | None, select.poll] = {}

    def put(self, command: Callable[[], None]) -> None:
        """Have the decode thread call `command` before its next step."""
        with self._lock:
            self._commands.append(command)
        try:
            self._waker.send(b"\0")
        except OSError:  # the buffer is full of wake-ups, or the stage has ended
            return

    def drain(self) -> list[Callable[[], None]]:
        """Return the commands that arrived, without waiting."""
        if not self._commands:
            return []
        with self._lock:
            commands, self._commands = self._commands, []
        return commands

    def wait(self, link: RingConnection | None, seconds: float) -> bool | None:
        """Wait for a command or a frame on `link`; True for a frame, None when neither came in this many seconds."""
        if link is not None and link.buffered:
            return True
        waiting = self._waiting.get(link)
        if waiting is None:
            waiting = self._waiting[link] = arrivals(self._woken, *([link.socket] if link else []))
        ready = [number for number, _ in waiting.poll(1000 * seconds)]
        if not ready:
            return None
        if self._woken.fileno() in ready:
            self._woken.recv(4096)
        return link is not None and link.socket.fileno() in ready

    def close(self) -> None:
        self._woken.close()
        self._waker.close()
