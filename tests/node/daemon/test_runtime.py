from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time

import pytest
from support.processes import running

from ainet.daemon import runtime
from ainet.daemon.runtime import NodeLock, Runtime
from ainet.errors import NodeNotRunning, NodeTaken

HOLDER = """
import os, sys, time
from pathlib import Path
from ainet.daemon.runtime import NodeLock, Runtime
lock = NodeLock(Path(sys.argv[1]))
lock.acquire()
lock.publish(Runtime(os.getpid(), "http://127.0.0.1:1/", "secret", 1.0, True))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that is the node of tmp_path."""
    with running([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process


def test_a_running_node_is_found(tmp_path, holder):
    assert runtime.find(tmp_path) == Runtime(holder.pid, "http://127.0.0.1:1/", "secret", 1.0, True)
    assert stat.S_IMODE((tmp_path / "node.json").stat().st_mode) == 0o600


def test_a_second_node_is_refused(tmp_path, holder):
    with pytest.raises(NodeTaken) as refused:
        NodeLock(tmp_path).acquire()
    assert refused.value.message == (
        f"Another server (process {holder.pid}, http://127.0.0.1:1/) is already the node of {tmp_path}."
    )
    assert runtime.find(tmp_path).pid == holder.pid


def test_what_a_killed_node_left_behind_is_stale(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "node.json").exists()
    assert runtime.find(tmp_path) is None
    with pytest.raises(NodeNotRunning) as refused:
        runtime.wait_until_ready(tmp_path)
    assert refused.value.message == (
        f"No node is running on {tmp_path}. The last one (process {holder.pid}) ended without tidying up. "
        "Start one with `ainet up` (or open JupyterLab with ainet enabled)."
    )


def test_a_reused_process_number_is_stale(tmp_path):
    lock = NodeLock(tmp_path)
    lock.acquire()
    lock.publish(Runtime(os.getpid(), "http://127.0.0.1:1/", "secret", 1.0, True))
    stale = (tmp_path / "node.json").read_bytes()
    lock.close()
    # As if the node had been killed and this process, which lives, had got its number.
    (tmp_path / "node.json").write_bytes(stale)
    assert runtime.read(tmp_path).pid == os.getpid()
    assert runtime.find(tmp_path) is None


def test_a_starting_node_does_not_pass_for_the_one_before_it(tmp_path):
    (tmp_path / "node.json").write_text('{"pid": 1, "url": "http://x/", "token": "t", "started": 0, "headless": true}')
    lock = NodeLock(tmp_path)
    lock.acquire()
    assert runtime.is_locked(tmp_path)
    assert runtime.find(tmp_path) is None
    lock.close()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": 1}', '{"pid": 1, "unknown": 2}'])
def test_a_damaged_file_is_no_node(tmp_path, text):
    (tmp_path / "node.json").write_text(text)
    assert runtime.read(tmp_path) is None


def test_a_folder_without_a_node_says_how_to_start_one(tmp_path):
    with pytest.raises(NodeNotRunning) as refused:
        runtime.wait_until_ready(tmp_path / "nothing")
    assert refused.value.message == (
        f"No node is running on {tmp_path / 'nothing'}. Start one with `ainet up` "
        "(or open JupyterLab with ainet enabled)."
    )
    assert not (tmp_path / "nothing").exists()


def test_a_file_is_no_node(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NodeNotRunning, match="No node is running on"):
        runtime.wait_until_ready(file)


def test_who_asks_waits_while_the_node_starts(tmp_path):
    lock = NodeLock(tmp_path)
    lock.acquire()
    with pytest.raises(NodeNotRunning, match="is still starting"):
        runtime.wait_until_ready(tmp_path, patience=0.1)
    lock.close()


def test_probing_does_not_keep_a_node_from_starting(tmp_path):
    prober = "import sys, pathlib, ainet.daemon.runtime as r\nwhile True: r.is_locked(pathlib.Path(sys.argv[1]))"
    with running([sys.executable, "-c", prober, str(tmp_path)]):
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            lock = NodeLock(tmp_path)
            lock.acquire()
            assert runtime.is_locked(tmp_path)
            lock.close()
