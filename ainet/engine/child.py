"""The node's side of a child process: start it, ask it, notice its end, and leave nothing of it behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import psutil

from ainet.errors import AinetError
from ainet.resources.monitor import alive
from ainet.timing import TIMING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from pathlib import Path

POLL_SECONDS = 0.02


class ChildProcess:
    """One child process that runs a `Program` and answers JSON lines.

    Parameters
    ----------
    program
        Module of the program, e.g. ``"ainet.engine.process"``.
    data_dir
        The node's data directory: temporary files go below ``processes/``, output to ``logs/engine.log``.
    log
        The log, for the end of the process.
    """

    def __init__(self, program: str, data_dir: Path, log: logging.Logger) -> None:
        self.program = program
        self.log_path = data_dir / "logs" / "engine.log"
        #: Called in the event loop with every message that answers no command.
        self.on_message: Callable[[dict[str, Any]], None] = lambda _: None
        #: Status of the process after its end; negative: the signal that killed it.
        self.exit_code: int | None = None
        #: Called in the event loop when the process ended without `stop`.
        self.on_end: Callable[[], None] = lambda: None
        self._data_dir = data_dir
        self._log = log
        self._run_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._ended = asyncio.Event()
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Process id, while it runs."""
        return self._process.pid if self._process is not None and not self._ended.is_set() else None

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self.pid is not None

    async def start(self, **parameters: Any) -> Any:
        """Start the process and return its answer to the command ``start``.

        Raises
        ------
        AinetError
            It failed or did not answer in time; nothing of it is left.
        """
        self._run_dir = _make_run_dir(self._data_dir)
        loop = asyncio.get_running_loop()
        with _open_log(self.log_path) as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - asyncio cannot in every event loop that Jupyter uses
                [sys.executable, "-P", "-m", self.program, str(self._run_dir), str(self.log_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=_environment(self._run_dir),
                start_new_session=True,  # Ctrl-C in the terminal is for the node, which then stops this in order
            )
        threading.Thread(target=self._read, args=(loop,), name=f"{self.program} {self.pid}", daemon=True).start()
        try:
            return await self.request("start", TIMING.child_start, **parameters)
        except BaseException:
            await self.stop()
            raise

    async def request(self, operation: str, timeout: float, **parameters: Any) -> Any:  # noqa: ASYNC109
        """Send a command and return its answer.

        Raises
        ------
        AinetError
            The command failed, the process ended, or `timeout` seconds passed.
        """
        if self._process is None or self._process.stdin is None or self._stopping or self._ended.is_set():
            what = "is not running"
            raise self._failed(what)
        self._count += 1
        number = self._count
        answer = self._pending[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "op": operation, **parameters}).encode() + b"\n"
        try:
            with contextlib.suppress(BrokenPipeError):  # its end fails the answer
                self._process.stdin.write(line)
                self._process.stdin.flush()
            return await asyncio.wait_for(answer, timeout)
        except TimeoutError:
            what = f"did not answer {operation!r} within {timeout:.0f} s"
            raise self._failed(what) from None
        finally:
            del self._pending[number]

    async def stop(self) -> None:
        """End the process and everything beneath it, and remove its files. Returns when all of it is gone."""
        if self._process is None or self._ended.is_set():
            return
        self._stopping = True
        family = _family(self._process.pid)
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        await _gone(family, TIMING.child_stop)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await _gone(family, TIMING.child_stop)
        await self._ended.wait()

    def _failed(self, what: str) -> AinetError:
        msg = f"The process {self.program} {what}. Its output is in {self.log_path}."
        return AinetError(msg)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        process = self._process
        assert process is not None and process.stdout is not None  # noqa: S101, PT018 - just started
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody listens any more
            with process.stdout as lines:
                for line in lines:
                    loop.call_soon_threadsafe(self._receive, json.loads(line))
            _end_group(process.pid)
            process.wait()
            loop.call_soon_threadsafe(self._note_end, process.returncode)

    def _receive(self, message: dict[str, Any]) -> None:
        answer = self._pending.get(message.get("id", 0))
        if answer is None:
            self.on_message(message)
        elif not answer.done():
            if "error" in message:
                answer.set_exception(self._failed(f"failed: {message['error']}"))
            else:
                answer.set_result(message["answer"])

    def _note_end(self, code: int) -> None:
        self._ended.set()
        self.exit_code = code
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        if self._run_dir is not None:
            shutil.rmtree(self._run_dir, ignore_errors=True)
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(self._failed("ended"))
        if not self._stopping:
            self._log.info("The process %s ended with code %d.", self.program, code)
            self.on_end()


def remove_leftovers(data_dir: Path) -> None:
    """Remove the temporary files that child processes of a killed node left in `data_dir`."""
    for path in (data_dir / "processes").glob("*"):
        if not path.name.startswith(_owner()):
            shutil.rmtree(path, ignore_errors=True)


def _owner() -> str:
    # Only one node at a time runs on a data directory; the start time tells it from an earlier one with the same pid.
    return f"{os.getpid()}-{psutil.Process().create_time():.0f}-"


def _make_run_dir(data_dir: Path) -> Path:
    parent = data_dir / "processes"
    parent.mkdir(mode=0o700, exist_ok=True)
    path = parent / (_owner() + secrets.token_hex(4))
    path.mkdir(mode=0o700)
    return path


def _open_log(path: Path) -> Any:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def _environment(run_dir: Path) -> dict[str, str]:
    """Return this process's environment without secrets and without the user's own Dask configuration."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DASK_", "JPY_")) and name != "JUPYTER_TOKEN"
    }
    # One thread each: llama.cpp has its own, and cores taken by idle BLAS pools are lost to it.
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
        "1",
    )
    return {
        **kept,
        **threads,
        # What a stage frees goes back to the system.
        "MALLOC_TRIM_THRESHOLD_": "65536",
        # The same modules as in this process, whatever put them on its path; `-P` keeps the current folder off it.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TMPDIR": str(run_dir),
        "DASK_CONFIG": str(run_dir),
    }


def _end_group(pid: int) -> None:
    """Wait for the child `pid` to end, then kill what it started and left."""
    if not hasattr(os, "waitid"):
        return
    # Until it is collected, no other process group can have its number.
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


async def _gone(processes: list[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(alive(process) for process in processes) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)
