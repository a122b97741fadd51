"""`make demo` as a process: to its end, and cut short at any moment."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

DEMO = Path(__file__).parents[2] / "notebooks" / "demo.py"
STOPPED = "\nStopped; every node is down and its data removed.\n"
SECONDS = 120


class Demo:
    """A running demo: all that it starts inherits its folder for temporary files, and is found by it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(DEMO)],
                cwd=folder,
                env={**os.environ, "TMPDIR": str(self.temporary)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not re.search(pattern, self.out):
            assert self.process.poll() is None, self.out + self.err
            assert time.monotonic() < deadline, self.out + self.err
            time.sleep(0.01)

    def left(self) -> list[psutil.Process]:
        """Return what runs of all that was started."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get("TMPDIR", "").startswith(str(self.temporary)):
                    found.append(process)
        return found


@pytest.fixture
def demo(jupyter_dirs, tmp_path):
    demo = Demo(tmp_path)
    try:
        yield demo
    finally:
        for process in demo.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        demo.process.wait()


def test_three_devices_answer_and_the_notebook_is_kept(demo):
    assert demo.process.wait(SECONDS) == 0, demo.err
    assert demo.left() == []
    assert list(demo.temporary.iterdir()) == []
    assert "Traceback" not in demo.out + demo.err
    *_, table = demo.out.split("device ")
    rows = re.findall(r"^(desk|laptop|tablet) +\d+ +(\d+)–(\d+) ", table, re.MULTILINE)
    assert [name for name, _, _ in rows] == ["desk", "laptop", "tablet"]
    ends = [(int(first), int(last)) for _, first, last in rows]
    assert ends[0][0] == 0
    assert [first for first, _ in ends[1:]] == [last + 1 for _, last in ends[:-1]]
    kept = nbformat.read(demo.folder / "demo-output" / "quickstart.ipynb", as_version=4)
    answers = [
        output["data"]["text/plain"]
        for cell in kept.cells
        if cell.cell_type == "code" and "why is the sky blue" in cell.source.lower()
        for output in cell.outputs
        if "text/plain" in output.get("data", {})
    ]
    assert any("blue" in answer and answer in demo.out for answer in answers), answers
    assert "blue" in (demo.folder / "demo-output" / "quickstart.html").read_text()


@pytest.mark.parametrize(
    ("moment", "signals"),
    [
        ("Three nodes start", [signal.SIGINT]),
        ("desk .*Jupyter server", [signal.SIGINT] * 3),
        ("joined", [signal.SIGTERM, signal.SIGINT]),
        (r"Answer in three sentences\.\n+\w+ \w+", [signal.SIGINT] * 3),
    ],
    ids=["importing", "starting", "pairing", "answering"],
)
def test_cut_short_nothing_is_left(demo, moment, signals):
    demo.wait_for(moment)
    for number in signals:
        demo.process.send_signal(number)
        time.sleep(0.1)  # two that come at once are one
    assert demo.process.wait(60) == 130
    assert demo.err == STOPPED
    assert "Traceback" not in demo.out
    assert demo.left() == []
    assert list(demo.temporary.iterdir()) == []
