"""Ends what a test run has started and left behind, however the run itself ended: also when it was killed.

A run is known by a folder, which every process that it starts inherits in its environment. The reaper is a process that
waits until the run is gone, then ends all others that name the folder, and removes the networks that are noted in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Names the folder of the run.
RUN = "AINET_TEST_RUN"
#: Processes that end by themselves have this long (s).
PATIENCE = 2.0


def note_namespace(name: str) -> None:
    """Have a network namespace removed when the run is over, if it is still there."""
    if folder := os.environ.get(RUN):
        (Path(folder) / name).touch()


@contextlib.contextmanager
def reaped() -> Iterator[None]:
    """Leave nothing behind of what is started meanwhile."""
    if RUN in os.environ:  # whoever began it leaves nothing
        yield
        return
    folder = tempfile.mkdtemp(prefix="ainet-tests-")
    os.environ[RUN] = folder
    command = [sys.executable, "-m", "support.reaper", folder]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), RUN: ""}
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env=environment) as process:
        try:
            yield
        finally:
            del os.environ[RUN]
            process.communicate()


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """Leave nothing behind, however the tests end."""
    with reaped():
        yield


def started(folder: str) -> list[psutil.Process]:
    """Return the processes of a run that live."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(RUN) == folder and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def reap(folder: str) -> None:
    """End the processes of a run, remove its networks, and forget it."""
    deadline = time.monotonic() + PATIENCE
    while left := started(folder):
        if time.monotonic() > deadline:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        time.sleep(0.05)
    for namespace in Path(folder).iterdir():
        subprocess.run(["ip", "netns", "del", namespace.name], check=False, capture_output=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.stdin.read()
    reap(sys.argv[1])
