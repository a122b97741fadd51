"""Real processes for tests: started by hand, watched, and gone at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

from ainet.resources.monitor import alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Return as soon as `condition` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all beneath it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if alive(process)]


def ports(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    """Return every address on which one of `processes` listens."""
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


@contextlib.contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run a program with the options of `subprocess.Popen`; killed with all beneath it if it runs at the end."""
    with subprocess.Popen(command, **options) as process:
        started = psutil.Process(process.pid)
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                for one in family(process.pid) if alive(started) else []:
                    one.kill()


@contextlib.contextmanager
def python(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python with this process's module path and pipes; its standard error goes to `log`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pipe = subprocess.PIPE
    with (
        log.open("wb") as output,
        running([sys.executable, *arguments], env=environment, stdin=pipe, stdout=pipe, stderr=output) as process,
    ):
        yield process


async def line(process: subprocess.Popen[bytes]) -> Any:
    """Return the next line that a helper process prints, as JSON."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return json.loads(await asyncio.to_thread(process.stdout.readline))
