"""A node that is told to stop stops, whatever has become of its data directory."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time

import httpx
import psutil
import pytest
from support.lab import TOKEN, running_lab
from support.nodes import OPTIONS, ainet, alive, family_of

from ainet.daemon import daemon, runtime

pytestmark = pytest.mark.usefixtures("jupyter_dirs")
MOST = 10.0  # seconds


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    if os.geteuid():
        pytest.skip("only root may mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32M", "none", folder], check=True)
    yield folder
    for mounted in (folder / "data", folder):
        subprocess.run(["umount", "--lazy", mounted], check=False, capture_output=True)


def lose(disk, how):
    """Have something happen to the disk, or to the data directory on it."""
    data = disk / "data"
    if how == "full":
        with contextlib.suppress(OSError), (disk / "rest").open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
    elif how == "moved":
        data.rename(disk / "elsewhere")
    elif how == "removed":
        shutil.rmtree(data)
    elif how == "unmounted":
        subprocess.run(["umount", "--lazy", disk], check=True)
    elif how == "read-only":  # to everybody who opens a file from now on
        subprocess.run(["mount", "--bind", data, data], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", data], check=True)


def logged(disk):
    return "".join(path.read_text(errors="replace") for path in disk.rglob("node.log"))


@pytest.mark.parametrize("how", ["full", "read-only", "moved", "removed", "unmounted"])
@pytest.mark.parametrize("told", ["down", signal.SIGTERM, signal.SIGINT])
def test_it_ends_within_ten_seconds(disk, how, told):
    data = disk / "data"
    started, _ = daemon.up(data, {"name": "tester", **OPTIONS})
    family = family_of(started)
    try:
        assert ainet("ask", "--max-tokens", "2", "hi", data_dir=data).returncode == 0
        lose(disk, how)
        begun = time.monotonic()
        if told == "down":
            done = ainet("down", data_dir=data)
            assert (done.returncode, done.stdout) == (0, f"The node (process {started.pid}) has stopped.\n"), (
                done.stderr
            )
            assert not alive(family)  # it says so when it is true
        else:
            os.kill(started.pid, told)
        while alive(family):
            assert time.monotonic() < begun + MOST, alive(family)
            time.sleep(0.05)
        assert "Traceback" not in logged(disk)
    finally:
        for process in alive(family):
            process.kill()


@pytest.mark.parametrize("how", ["full", "removed"])
def test_a_jupyter_server_that_is_shut_down_ends_with_its_node(disk, how, tmp_path):
    (disk / "data").mkdir()
    (tmp_path / "node").symlink_to(disk / "data")
    with running_lab(tmp_path) as url:
        [server] = [
            child for child in psutil.Process().children() if alive([child]) and "jupyterlab" in child.cmdline()
        ]
        family = [server, *server.children(recursive=True)]
        lose(disk, how)
        begun = time.monotonic()
        httpx.post(f"{url}/api/shutdown", headers={"Authorization": f"token {TOKEN}"}, timeout=5)
        while alive(family):
            assert time.monotonic() < begun + MOST, alive(family)
            time.sleep(0.05)
    # (jupyter-collaboration's own task leaves one, wherever it was not used.)
    assert not re.findall(r'File "[^"]*/ainet/.*', (tmp_path / "lab.log").read_text())


def test_down_says_that_nothing_runs_where_nothing_runs(tmp_path):
    assert ainet("down", data_dir=tmp_path / "never").stdout == f"No node is running on {tmp_path / 'never'}.\n"
    assert runtime.find(tmp_path) is None
