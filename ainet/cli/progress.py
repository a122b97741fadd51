"""Progress in words, for a terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from ainet.api.generate import Progress
from ainet.cli.terminal import fitting
from ainet.units import show_bytes

if TYPE_CHECKING:
    from typing import TextIO

#: What is shown before the node has said anything.
BEGUN = Progress(text="asking the node")
#: Seconds between two lines of progress on a standard error that is no terminal.
RARELY = 10.0


#: Letters of a bar.
WIDTH = 20


class ProgressLine:
    """Shows progress on standard error: one line that changes on a terminal, now and then one elsewhere."""

    def __init__(self) -> None:
        self._shown = False
        self._due = time.monotonic()
        self._long = self._due + RARELY
        self._noticed = ""

    def begin(self) -> None:
        """Say at once, on a terminal, that something goes on."""
        if sys.stderr.isatty():
            self.show(BEGUN)

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
        words = fitting(_plainer(progress_text(event), sys.stderr), sys.stderr)
        if amid:
            if event.notice and words != self._noticed:
                self._noticed = words
                self._write(f"\n{words}\n")
        elif sys.stderr.isatty():
            self._write(f"\r\x1b[K{words}")
            self._shown = True
        elif time.monotonic() >= (self._long if event.unit == "tokens" else self._due):  # every prompt is read
            self._write(f"{words}\n")
            self._due = time.monotonic() + RARELY

    def clear(self) -> None:
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _plainer(text: str, stream: TextIO) -> str:
    """Return a bar of other letters where the terminal lacks those of `text`."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return text.translate({ord("█"): "#", ord("░"): ".", ord("…"): "..."})
    return text


def progress_text(event: Progress) -> str:
    """Return a ``progress`` event in words, with a bar where it is known how much there is to do."""
    if not event.done and not event.total:
        return f"{event.text} …"
    show = show_bytes if event.unit == "bytes" else str
    if not event.total:
        return f"{event.text}: {show(event.done)}"
    of = f"{show(event.done)} of {show(event.total)}" + ("" if event.unit == "bytes" else f" {event.unit}")
    return f"{event.text} {_bar(event.done / event.total)} {of}"


def _bar(part: float) -> str:
    full = round(WIDTH * min(max(part, 0.0), 1.0))
    return "█" * full + "░" * (WIDTH - full)
