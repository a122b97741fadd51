"""`ainet up`, `down` and `logs`: a headless node in the background."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ainet.config import CONFIG_FILE, AinetConfig
from ainet.daemon import runtime
from ainet.daemon.log import FAILED, LOG_FILE, open_log
from ainet.daemon.runtime import Runtime, wait_until_ready
from ainet.errors import AinetError, UsageError
from ainet.timing import TIMING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import psutil


#: What makes a device the one that it is: its key, its membership, perhaps the swarm's key, and who knows it.
IDENTITY_FILES = ("identity/device.key", "identity/swarm.json", "identity/contacts.json", "contact_shares.json")
#: The module that is the process of a node in the background.
HEADLESS = "ainet.server.headless"


def up(data_dir: Path, options: dict[str, Any] | None = None) -> tuple[Runtime, bool]:
    """Start a node in the background and wait until it is ready.

    Parameters
    ----------
    data_dir
        Its data directory.
    options
        Values of `AinetConfig` traits; they are kept for the next start.

    Returns
    -------
    tuple
        The way to the node, and whether it was started by this call (False: it ran already).

    Raises
    ------
    AinetError
        The node did not start; the message quotes its log. Or it runs already and `options` cannot take effect.
    UsageError
        An option, or what was kept of an earlier one, has an impossible value.
    """
    options = options or {}
    if options:
        refuse_second(data_dir, options)
    elif runtime.is_locked(data_dir):
        return wait_until_ready(data_dir), False
    with options_kept(data_dir, options):
        return _start(data_dir, options)


def begin_anew(data_dir: Path) -> None:
    """Take a data directory's identity away: the next start makes a new one. Models, notebooks and settings stay.

    Raises
    ------
    AinetError
        A node runs on it.
    """
    if runtime.is_locked(data_dir):
        raise AinetError("The node runs: `ainet down` first, on this device, which is the copy.")
    for name in IDENTITY_FILES:
        with contextlib.suppress(FileNotFoundError):
            (data_dir / name).unlink()


def refuse_second(data_dir: Path, options: dict[str, Any]) -> None:
    """Check `options`, and that no node runs that would not take notice of them.

    Raises
    ------
    UsageError
        An option has an impossible value.
    AinetError
        A node runs.
    """
    from ainet.daemon.options import check_options

    check_options(options)
    if runtime.is_locked(data_dir):
        running = wait_until_ready(data_dir)
        raise AinetError(
            f"The node already runs (process {running.pid}). `ainet down` first, then start it with new options."
            if options
            else f"The node already runs: process {running.pid}, {running.url}"
        )


def _start(data_dir: Path, options: dict[str, Any]) -> tuple[Runtime, bool]:
    log = data_dir / LOG_FILE
    start = log.stat().st_size if log.exists() else 0
    deadline = time.monotonic() + TIMING.node_start
    pid = _spawn(data_dir)
    try:
        while time.monotonic() < deadline:
            ready = runtime.find(data_dir)
            if ready is not None:
                return ready, ready.pid == pid
            if os.waitpid(pid, os.WNOHANG)[0]:
                if runtime.is_locked(data_dir):  # another `ainet up` was faster
                    return wait_until_ready(data_dir), False
                raise not_started(data_dir, options, _reason(log, start), f"\nIts log: {log}")
            time.sleep(0.05)
    except KeyboardInterrupt:
        end(pid)
        raise
    end(pid)
    raise AinetError(f"The node was not ready after {TIMING.node_start:.0f} s and was ended. Its log: {log}")


def down(data_dir: Path) -> Runtime | None:
    """Stop the node and wait until none of its processes is left.

    Returns
    -------
    Runtime or None
        The node that ran; None when there was none.

    Raises
    ------
    AinetError
        The node lives in a Jupyter server that somebody uses, or does not end.
    """
    if not runtime.is_locked(data_dir):
        running = _without_directory(data_dir)
        if running is None:
            return None
    else:
        running = wait_until_ready(data_dir)
    if not running.headless:
        raise AinetError(
            f"The node lives in the Jupyter server at {running.url} (process {running.pid}): stop that server."
        )
    end(running.pid)
    return running


def _without_directory(data_dir: Path) -> Runtime | None:
    """Return the node that was started on a data directory that has been moved, removed or unmounted since."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_node = HEADLESS in process.cmdline()
            if is_node and process.environ().get("AINET_DATA_DIR") == str(data_dir):
                return Runtime(process.pid, "", "", process.create_time(), headless=True)
    return None


def read_log(data_dir: Path, lines: int, *, follow: bool = False) -> Iterator[str]:
    """Yield the last `lines` lines of the node's log and, with `follow`, whatever is added, also after a rotation.

    Raises
    ------
    AinetError
        No node has run on `data_dir`.
    """
    path = data_dir / LOG_FILE
    try:
        file = path.open(errors="replace")
    except FileNotFoundError as exc:
        raise AinetError(f"There is no log in {data_dir}: no node has run there.") from exc
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        yield "".join(deque(file, maxlen=lines))
        while follow:
            rotated = path.exists() and path.stat().st_ino != os.fstat(file.fileno()).st_ino
            text = file.read()
            if text:
                yield text
            elif rotated:
                stack.close()
                file = stack.enter_context(path.open(errors="replace"))
            else:
                time.sleep(0.1)


@contextlib.contextmanager
def options_kept(data_dir: Path, options: dict[str, Any]) -> Iterator[None]:
    """Keep `options` while a node starts; when that fails, keep what was kept before."""
    from ainet.daemon.options import keep_options
    from ainet.files import write_private

    path = data_dir / CONFIG_FILE
    former = path.read_bytes() if path.exists() else None
    keep_options(data_dir, options)
    try:
        yield
    except BaseException:
        if options and former is not None:
            write_private(path, former)
        elif options:
            path.unlink(missing_ok=True)
        raise


def not_started(data_dir: Path, options: dict[str, Any], reason: str, ending: str = "") -> AinetError:
    """Return the error that says why a node did not start with `options`, and which kept value is to blame."""
    words = [f"The node did not start: {reason}"]
    path = data_dir / CONFIG_FILE
    culprits = [name for name, value in _kept(path).items() if name not in options and _is_impossible(name, value)]
    if culprits:
        words.append(f"Correct {' and '.join(f'`{name}`' for name in culprits)} in {path}.")
    if options:
        words.append("The options were not kept.")
    kind = UsageError if culprits else AinetError
    return kind(" ".join(words) + ending)


def _kept(path: Path) -> dict[str, Any]:
    """Return the settings of a node that its own configuration file has."""
    try:
        kept = json.loads(path.read_text())["AinetConfig"]
        return {name: value for name, value in kept.items() if name in AinetConfig.class_traits()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}  # whatever is wrong with the file itself, the node has said it


def _is_impossible(name: str, value: object) -> bool:
    from ainet.daemon.options import check_options

    try:
        check_options({name: value})
    except UsageError:
        return True
    return False


def _spawn(data_dir: Path) -> int:
    """Start the server process in a session of its own; return its process number."""
    with open_log(data_dir / LOG_FILE) as log:
        return os.posix_spawn(
            sys.executable,
            # Safe path: what lies in the current folder must not shadow modules.
            [sys.executable, "-P", "-m", HEADLESS],
            os.environ | {"AINET_DATA_DIR": str(data_dir)},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
            ],
            setsid=True,
        )


def end(*pids: int, patience: float = TIMING.node_stop) -> None:
    """Ask processes to stop, wait for them and all beneath them, and kill what is left after `patience` seconds.

    Raises
    ------
    AinetError
        The operating system does not end one of them.
    """
    import psutil

    family: set[psutil.Process] = set()
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            family |= {process, *process.children(recursive=True)}
            process.terminate()
    deadline = time.monotonic() + patience
    while family := {process for process in family if _lives(process)}:
        for process in list(family):
            with contextlib.suppress(psutil.NoSuchProcess):
                family.update(process.children())
                if time.monotonic() > deadline:
                    process.kill()
        if time.monotonic() > deadline + TIMING.child_kill:
            left = ", ".join(str(process.pid) for process in family)
            raise AinetError(f"Processes do not end, although they were killed: {left}. Their disk may not answer.")
        time.sleep(0.05)


def _lives(process: psutil.Process) -> bool:
    """Return whether the process still runs; one that only waits for its parent to notice does not."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _reason(log: Path, start: int) -> str:
    """Return why the node did not start, as its log says since byte `start`: in words, or its last lines."""
    with log.open(errors="replace") as file:
        file.seek(start)
        lines = file.read().splitlines()
    for line in reversed(lines):
        if FAILED in line:
            return line.split(FAILED, 1)[1]
    if "Traceback (most recent call last):" in lines:
        return lines[-1]
    return "\n".join(lines[-10:]) or "it said nothing."
