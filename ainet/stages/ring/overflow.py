"""Sending without waiting: the end of a ring must go on reading, or the stages wait for each other in a circle."""

from __future__ import annotations

import select
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

#: Frames of at most this many bytes are sent at once where the socket has room: it has room for that many then.
AT_ONCE = 16384


class Overflow:
    """Sends what a socket has no room for in a thread of its own, in order.

    Parameters
    ----------
    sock
        Blocking, and only sent to from here on.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._socket = sock
        self._has_room = select.poll()
        self._has_room.register(sock, select.POLLOUT)
        self._frames: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._error: OSError | ValueError | None = None
        self._closed = False
        threading.Thread(target=self._run, name="overflow", daemon=True).start()

    def send(self, frame: memoryview) -> None:
        """Send a frame, now or later. Raises OSError when the connection was lost before.

        One thread at a time may call it. So when no frame is left, the other thread has sent everything.
        """
        if not self._frames and self._error is None and len(frame) <= AT_ONCE and self._has_room.poll(0):
            self._socket.sendall(frame)
            return
        with self._changed:
            if self._error is not None:
                raise ConnectionResetError(str(self._error))
            self._frames.append(bytes(frame))
            self._changed.notify()

    def close(self) -> None:
        """Send nothing more; the socket was shut down."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._frames or self._closed):
                    self._changed.wait()
                if self._closed:
                    return
                frame = self._frames[0]
            try:
                self._socket.sendall(frame)
            except (OSError, ValueError) as exc:  # ValueError: it was closed
                with self._changed:
                    self._error = exc
                    self._frames.clear()
                return
            with self._changed:
                self._frames.popleft()
