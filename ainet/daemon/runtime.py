"""The node of a data directory: a lock that its process holds, and a file that says how to reach it.

The lock (`node.lock`, flock) is the truth about whether a node lives: the operating system releases it however the
process ends, and a process number that was given away again cannot hold it. The file (`node.json`, 0600) exists once
the node is ready; without the lock it is stale.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any

from ainet.errors import NodeNotRunning, NodeTaken
from ainet.timing import TIMING

if TYPE_CHECKING:
    from pathlib import Path

LOCK_FILE = "node.lock"
RUNTIME_FILE = "node.json"


@dataclass(frozen=True)
class Runtime:
    """The way to the node for the processes of this user.

    Parameters
    ----------
    pid
        Process number of the Jupyter server that the node lives in.
    url
        Its address on this device, with the base URL and a slash at the end.
    token
        Accepted by the node's own routes only; it is not the Jupyter token.
    started
        The time at which the node was ready, in seconds since the epoch.
    headless
        Whether `ainet up` started the server, so that `ainet down` may stop it.
    """

    pid: int
    url: str
    token: str
    started: float
    headless: bool


class NodeLock:
    """One node per data directory: held from before the node starts until after it has stopped."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._file: IO[bytes] | None = None

    def acquire(self) -> None:
        """Take the lock and remove a stale runtime file.

        Raises
        ------
        NodeTaken
            Another process holds the lock.
        """
        # A prober may hold it for a moment, in shared mode.
        deadline = time.monotonic() + 0.5
        file = open_private(self.data_dir / LOCK_FILE)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                if time.monotonic() > deadline:
                    file.close()
                    running = find(self.data_dir)
                    where = f" (process {running.pid}, {running.url})" if running else ""
                    raise NodeTaken(f"Another server{where} is already the node of {self.data_dir}.") from exc
                time.sleep(0.01)
        self._file = file
        (self.data_dir / RUNTIME_FILE).unlink(missing_ok=True)

    def publish(self, runtime: Runtime) -> None:
        """Write the runtime file: the node is ready."""
        from ainet.files import write_private

        write_private(self.data_dir / RUNTIME_FILE, json.dumps(asdict(runtime), indent=1).encode())

    def close(self) -> None:
        """Remove the runtime file and let the next one in, also where the file cannot be removed."""
        if self._file is not None:
            try:
                (self.data_dir / RUNTIME_FILE).unlink(missing_ok=True)
            finally:
                self._file.close()
                self._file = None


def is_locked(data_dir: Path) -> bool:
    """Return whether a living process is, or is becoming, the node of `data_dir`."""
    try:
        file = (data_dir / LOCK_FILE).open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read(data_dir: Path) -> Runtime | None:
    """Return what the runtime file says, stale or not; None when there is none that makes sense."""
    try:
        data: dict[str, Any] = json.loads((data_dir / RUNTIME_FILE).read_text())
        return Runtime(**data)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def find(data_dir: Path) -> Runtime | None:
    """Return the running, ready node of `data_dir`, or None."""
    before = read(data_dir)
    # A holder of the lock removes a stale file first of all, so the same file after the probe belongs to it.
    return before if before is not None and is_locked(data_dir) and read(data_dir) == before else None


def wait_until_ready(data_dir: Path, patience: float = TIMING.node_start) -> Runtime:
    """Return the running node of `data_dir`, waiting while it starts.

    Raises
    ------
    NodeNotRunning
        There is none, or it did not become ready within `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        running = find(data_dir)
        if running is not None:
            return running
        if not is_locked(data_dir):
            stale = read(data_dir)
            ended = f" The last one (process {stale.pid}) ended without tidying up." if stale else ""
            raise NodeNotRunning(
                f"No node is running on {data_dir}.{ended} Start one with `ainet up` "
                "(or open JupyterLab with ainet enabled)."
            )
        if time.monotonic() > deadline:
            raise NodeNotRunning(f"The node on {data_dir} is still starting. `ainet logs` shows how far it is.")
        time.sleep(0.05)


def open_private(path: Path) -> IO[bytes]:
    """Open `path` for reading and appending, created with mode 0600."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab+")
