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
    from collections.abc import Callable, Iterator
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
def python(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python with this process's module path; its standard error goes to `log`. Killed with all beneath it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output
        )
    started = psutil.Process(process.pid)
    try:
        yield process
    finally:
        rest = [started, *started.children(recursive=True)] if alive(started) else []
        for one in rest:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.communicate()


async def line(process: subprocess.Popen[bytes]) -> Any:
    """Return the next line that a helper process prints, as JSON."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return json.loads(await asyncio.to_thread(process.stdout.readline))
