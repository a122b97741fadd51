"""The child's side of a child process: commands come as JSON lines on standard input, answers go to standard output.

The process ends when its standard input ends, which is what happens when its parent ends in whatever way. On Linux
the kernel also sends it SIGTERM then, in case another process inherited the pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ainet.engine.exit_deadline import ExitDeadline, end_resource_tracker, kill_descendants
from ainet.timing import TIMING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The log is looked at this often (s) and emptied when it is longer than this (bytes); one older part is kept.
LOG_SECONDS = 10.0
LOG_LIMIT = 2_000_000
PR_SET_PDEATHSIG = 1


class Program:
    """The work of a child process: one coroutine method for each command, returning a JSON-compatible answer."""

    #: Names of the methods that the parent may call.
    commands: ClassVar[frozenset[str]] = frozenset({"start"})

    def __init__(self, run_dir: Path, answers: int) -> None:
        #: Folder for temporary files; removed at the end.
        self.run_dir = run_dir
        #: Set to end the process from inside.
        self.finished = asyncio.Event()
        #: Status with which the process then ends.
        self.exit_code = 0
        self._answers = answers

    @classmethod
    def prepare(cls, run_dir: Path, pipes: Sequence[int]) -> None:
        """Do what has to be done before there are any threads; `pipes` lead to the parent. What fails is logged."""

    async def stop(self) -> None:
        """Close in order what ``start`` opened; called once, at the end."""

    def emit(self, message: dict[str, Any]) -> None:
        """Send one line to the parent."""
        # A parent that is gone is noticed on standard input.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._answers, json.dumps(message).encode() + b"\n")

    async def run(self, commands: int, log_path: Path, deadline: ExitDeadline) -> None:
        """Answer the parent until it ends or `finished` is set; `deadline` begins with the end."""
        loop = asyncio.get_running_loop()

        def end(*_: object) -> None:
            deadline.start()
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.finished.set)

        # Not `add_signal_handler`: the loop would take it back when it closes, and a signal could break the cleaning.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        tasks = {loop.create_task(_keep_log_short(log_path))}

        def receive(line: bytes) -> None:
            task = loop.create_task(self._answer(json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        def read() -> None:
            with contextlib.suppress(RuntimeError), os.fdopen(commands, "rb") as stream:  # the loop may be closed
                for line in stream:
                    loop.call_soon_threadsafe(receive, line)
                end()

        threading.Thread(target=read, name="commands", daemon=True).start()
        await self.finished.wait()
        deadline.start()
        for task in tasks:
            task.cancel()
        await self.stop()

    async def _answer(self, command: dict[str, Any]) -> None:
        operation, number = command.pop("op"), command.pop("id")
        try:
            if operation not in self.commands:
                raise ValueError(f"unknown command {operation!r}")
            answer = await getattr(self, operation)(**command)
        except Exception as exc:  # the parent is told, the log has the details
            traceback.print_exc()
            self.emit({"id": number, "error": f"{type(exc).__name__}: {exc}"})
        else:
            self.emit({"id": number, "answer": answer})


def main(program: type[Program]) -> None:
    """Run `program` until the parent ends; ``sys.argv`` names its folder and its log file. Does not return."""
    run_dir, log_path = Path(sys.argv[1]), Path(sys.argv[2])
    # The node's module search path came with the environment; what is started from here needs its own.
    os.environ.pop("PYTHONPATH", None)
    commands, answers = _take_pipes()
    _end_with_parent()
    try:
        program.prepare(run_dir, (commands, answers))
    except Exception:  # `start` meets it again, and can say so
        traceback.print_exc()
    deadline = ExitDeadline(TIMING.child_orderly, run_dir)
    code = 1
    try:
        code = asyncio.run(_run(program(run_dir, answers), commands, log_path, deadline))
    except BaseException:  # the log is the only place where it can be seen
        traceback.print_exc()
    finally:
        deadline.start()
        kill_descendants()
        end_resource_tracker()
        shutil.rmtree(run_dir, ignore_errors=True)
        sys.stderr.flush()
        # Threads that still run (a user's task, the reader of commands) must not keep the process.
        os._exit(code)


async def _run(running: Program, commands: int, log_path: Path, deadline: ExitDeadline) -> int:
    await running.run(commands, log_path, deadline)
    return running.exit_code


def _take_pipes() -> tuple[int, int]:
    """Keep the parent's pipes from everything else here: whoever prints, prints to the log."""
    commands, answers = os.dup(0), os.dup(1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return commands, answers


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


async def _keep_log_short(path: Path) -> None:
    # Native code and grandchildren write to the same open file, so that it is emptied in place, not renamed.
    while True:
        if os.fstat(2).st_size > LOG_LIMIT:
            older = path.with_suffix(".log.1")
            shutil.copyfile(path, older)
            older.chmod(0o600)
            os.truncate(path, 0)
        await asyncio.sleep(LOG_SECONDS)
