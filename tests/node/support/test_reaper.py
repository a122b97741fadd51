"""What tests start is gone when they were ended in the middle."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support.processes import living, running, until
from support.reaper import RUN

TESTS = Path(__file__).parents[2]
#: A test that starts a process which outlives everybody, says which, and never ends.
ENDLESS = """
import pathlib, subprocess, sys, time
from support.reaper import nothing_left

def test_endless():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    pathlib.Path({noted!r}).write_text(f"{{process.pid}}\\n")
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("workers", ["0", "1"])
async def test_ended_in_the_middle_tests_leave_no_process(tmp_path, how, workers):
    noted = tmp_path / "noted"
    (tmp_path / "test_endless.py").write_text(ENDLESS.format(noted=str(noted)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", workers, str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != RUN}
    environment |= {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "PYTHONUNBUFFERED": "1"}
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    with running(command, env=environment, start_new_session=True, **options) as tests:
        await until(lambda: noted.exists() and noted.read_text().endswith("\n"), 60)
        left = psutil.Process(int(noted.read_text()))
        tests.send_signal(how)
        await until(lambda: not living([left]), 30)
        await asyncio.to_thread(tests.wait, 60)
