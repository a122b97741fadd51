"""Measurements of this device, and of the use that is made of it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import psutil

from ainet.errors import AinetError
from ainet.files import write_private

CGROUP = Path("/sys/fs/cgroup")
#: The buffer of `memory_speed`: larger than the last-level cache of nearly every processor (bytes), read this often.
SPEED_BUFFER = 96 * 1024**2
SPEED_PASSES = 5
#: A measured speed is measured again after this time (s), in case the device was busy then.
SPEED_MAX_AGE = 7 * 86400


class ProcessMemory(msgspec.Struct, frozen=True):
    """One process and its share of memory (bytes)."""

    pid: int
    name: str
    memory: int


class _Speed(msgspec.Struct):
    bytes_per_s: float
    measured: float


def pss(pid: int) -> int:
    """Return the proportional set size of a process in bytes: shared pages count in parts.

    Outside Linux it is the unique set size, or the resident size where that is not allowed; 0 if there is no such
    process.
    """
    try:
        if sys.platform == "linux":
            for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
        process = psutil.Process(pid)
        try:
            return int(process.memory_full_info().uss)
        except psutil.AccessDenied:
            return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return 0


def process_tree(pid: int) -> list[ProcessMemory]:
    """Return the process `pid` and all processes beneath it that live; empty if there is no such process."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    found = []
    for process in family:
        try:
            if alive(process):
                found.append(ProcessMemory(process.pid, process.name(), pss(process.pid)))
        except psutil.NoSuchProcess:
            continue
    return found


def alive(process: psutil.Process) -> bool:
    """Whether this very process still runs: not another one with its pid, and not a zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def total_memory(cgroup: Path = CGROUP) -> int:
    """Return the bytes of memory that this device has, or that its container may use."""
    limits = [limit for limit, _ in _memory_limits(cgroup)]
    return min([int(psutil.virtual_memory().total), *limits])


def available_memory(cgroup: Path = CGROUP) -> int:
    """Return the bytes of memory that can be used now without swapping."""
    left = [max(0, limit - used) for limit, used in _memory_limits(cgroup)]
    return min([int(psutil.virtual_memory().available), *left])


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_speed(data_dir: Path) -> float:
    """Return the bytes per second that one thread reads from memory in sequence.

    It takes about 0.2 s. Whatever else the device does makes the figure smaller, never larger, so the best of a week is
    kept in `data_dir` and counts. Decoding a token reads every weight once, so that this speed bounds a stage's tokens
    per second.
    """
    path = data_dir / "memory_speed.json"
    speed = _Speed(_measure_speed(), time.time())
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Speed)
    except (FileNotFoundError, msgspec.DecodeError):
        pass
    else:
        if kept.bytes_per_s >= speed.bytes_per_s and 0 <= time.time() - kept.measured < SPEED_MAX_AGE:
            with contextlib.suppress(OSError):
                path.chmod(0o600)  # older versions let everybody read it
            return kept.bytes_per_s
    with contextlib.suppress(AinetError):  # without it, it is measured again
        write_private(path, msgspec.json.encode(speed))
    return speed.bytes_per_s


def _measure_speed() -> float:
    size = min(SPEED_BUFFER, available_memory() // 8)
    # Pages that were never written are all the same one; the maximum of bytes is the fastest reduction in NumPy.
    buffer = np.full(max(size, 1024**2), 1, dtype=np.uint8)
    times = []
    for _ in range(SPEED_PASSES):
        begin = time.perf_counter()
        buffer.max()
        times.append(time.perf_counter() - begin)
    return buffer.nbytes / min(times)


def _memory_limits(cgroup: Path) -> list[tuple[int, int]]:
    """Return (limit, used) in bytes of every control group around this process; used without file cache."""
    if sys.platform != "linux":
        return []
    found = [_memory_limit(cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            folder = cgroup / line[3:].lstrip("/")
            found += [
                _memory_limit(group, "memory.max", "memory.current", "inactive_file")
                for group in (folder, *folder.parents)
                if group.is_relative_to(cgroup)
            ]
    return [pair for pair in found if pair is not None]


def _memory_limit(group: Path, limit: str, used: str, cache: str) -> tuple[int, int] | None:
    try:
        most = (group / limit).read_text().strip()
        if most == "max":
            return None
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(most), int((group / used).read_text()) - int(stat.get(cache, 0))
    except (FileNotFoundError, PermissionError):
        return None
