"""Measurements of memory, held against processes whose size is known."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest
from support.processes import running

from ainet.resources import monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MB = 10**6
#: Holds 100 MB, starts a child that holds 50 MB, and says when both are there.
FAMILY = """
import subprocess, sys
size = int(sys.argv[1])
held = bytearray(b"x") * size
if size > 60_000_000:
    child = subprocess.Popen([sys.executable, "-c", open(sys.argv[2]).read(), "50000000"], stdin=subprocess.PIPE)
else:
    print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    command = [sys.executable, str(script), "100000000", str(script)]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process


def test_a_process_and_what_is_beneath_it_are_measured(parent: subprocess.Popen[bytes]) -> None:
    tree = monitor.process_tree(parent.pid)
    assert [one.pid for one in tree] == [parent.pid, psutil.Process(parent.pid).children()[0].pid]
    assert 100 * MB < tree[0].memory < 125 * MB
    assert 50 * MB < tree[1].memory < 75 * MB
    assert all(one.name.startswith("python") for one in tree)
    assert monitor.pss(parent.pid) == pytest.approx(tree[0].memory, rel=0.05)


def test_a_process_that_is_gone_has_no_memory() -> None:
    with running([sys.executable, "-c", ""]) as process:
        started = psutil.Process(process.pid)
        process.wait()
    assert monitor.pss(process.pid) == 0
    assert monitor.process_tree(process.pid) == []
    assert not monitor.alive(started)


def test_a_zombie_is_not_alive() -> None:
    with running([sys.executable, "-c", ""]) as process:
        started = psutil.Process(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert started.status() == psutil.STATUS_ZOMBIE
        assert not monitor.alive(started)
        assert monitor.process_tree(process.pid) == []


def test_the_device_has_more_memory_than_is_available_and_some_cores() -> None:
    assert 0 < monitor.available_memory() <= monitor.total_memory() <= psutil.virtual_memory().total
    assert 1 <= monitor.cores() <= (os.cpu_count() or 1)


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    # A control group of 1 GB, of which 600 MB are used, 200 MB of that for file cache.
    for name, text in (
        ("memory.max", "1000000000\n"),
        ("memory.current", "600000000\n"),
        ("memory.stat", "anon 400000000\ninactive_file 200000000\n"),
    ):
        (tmp_path / name).write_text(text)
    assert monitor.total_memory(tmp_path) == 1_000_000_000
    assert monitor.available_memory(tmp_path) == 600_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert monitor.total_memory(tmp_path) == psutil.virtual_memory().total


def test_memory_speed_is_measured_and_the_best_is_kept(tmp_path: Path) -> None:
    speed = monitor.memory_speed(tmp_path)
    assert 100 * MB < speed < 10**12
    assert monitor.memory_speed(tmp_path) >= speed  # the best counts: other work only makes it smaller
    assert [path.name for path in tmp_path.iterdir()] == ["memory_speed.json"]


@pytest.mark.parametrize("age_days", [8, -1])
def test_an_old_or_future_measurement_is_not_trusted(tmp_path: Path, age_days: int) -> None:
    path = tmp_path / "memory_speed.json"
    path.write_bytes(msgspec.json.encode({"bytes_per_s": 1.0, "measured": time.time() - age_days * 86400}))
    assert monitor.memory_speed(tmp_path) > 100 * MB


def test_a_damaged_measurement_is_measured_again(tmp_path: Path) -> None:
    (tmp_path / "memory_speed.json").write_text("{}")
    assert monitor.memory_speed(tmp_path) > 100 * MB
