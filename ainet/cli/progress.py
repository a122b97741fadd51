"""Progress in words, for a terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from ainet.cli.terminal import fitting
from ainet.units import show_bytes

if TYPE_CHECKING:
    from ainet.api.generate import Progress

#: Seconds between two lines of progress on a standard error that is no terminal.
RARELY = 10.0


class ProgressLine:
    """Shows progress on standard error: one line that changes on a terminal, now and then one elsewhere."""

    def __init__(self) -> None:
        self._shown = False
        self._due = time.monotonic()
        self._noticed = ""

    def show(self, event: Progress, *, amid: bool = False) -> None:
        """Replace the line by that of a ``progress`` event.

        Parameters
        ----------
        event
            As `NodeClient.generate` yields it.
        amid
            Whether an answer has begun, over which nothing may be written: only what its reader must know is said
            then, once and on a line of its own.
        """
        words = fitting(progress_text(event), sys.stderr)
        if amid:
            if event.notice and words != self._noticed:
                self._noticed = words
                self._write(f"\n{words}\n")
        elif sys.stderr.isatty():
            self._write(f"\r\x1b[K{words}")
            self._shown = True
        elif time.monotonic() >= self._due:
            self._write(f"{words}\n")
            self._due = time.monotonic() + RARELY

    def clear(self) -> None:
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def progress_text(event: Progress) -> str:
    """Return a ``progress`` event in words."""
    if not event.done and not event.total:
        return f"{event.text} …"
    return f"{event.text}: {show_bytes(event.done)}" + (f" of {show_bytes(event.total)}" if event.total else "")
