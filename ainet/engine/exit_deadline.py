"""A process that was told to end ends, and all beneath it, whatever its threads and its event loop are waiting for."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import threading
import time
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

import psutil

from ainet.timing import TIMING

if TYPE_CHECKING:
    from pathlib import Path


class ExitDeadline:
    """From `begin` on, the process has a fixed time to end in order; then it is ended by force.

    Parameters
    ----------
    seconds
        The time for an orderly end (s).
    folder
        The folder to remove when it took longer.
    """

    def __init__(self, seconds: float, folder: Path | None = None) -> None:
        self._seconds = seconds
        self._folder = folder
        # Unlike an event, a handler of signals may use it whatever it interrupted.
        self._begun: queue.SimpleQueue[None] = queue.SimpleQueue()
        threading.Thread(target=self._watch, name="exit deadline", daemon=True).start()

    def start(self) -> None:
        """Start the clock; further calls change nothing. May be called in any thread and in a handler of signals."""
        self._begun.put(None)

    def _watch(self) -> None:
        self._begun.get()
        time.sleep(self._seconds)
        kill_descendants()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(1)


def kill_descendants() -> None:
    """Kill every process beneath this one, except multiprocessing's resource tracker, which ends when they have."""
    tracker = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]
    rest = [process for process in psutil.Process().children(recursive=True) if process.pid != tracker]
    for process in rest:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    # Waited for here, they leave no zombies where process 1 does not collect orphans (many containers).
    psutil.wait_procs(rest, timeout=TIMING.child_kill)


def end_resource_tracker() -> None:
    """Let the resource tracker remove what is left of semaphores, and wait for it: it outlives all who use it."""
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
