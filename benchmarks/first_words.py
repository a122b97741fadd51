"""How long nothing is seen between a question and the first sign of life, on a node that has not loaded its model.

A real kernel and a real terminal (a pseudo-terminal), each with a node of its own that was just started. The bound is
what people call "at once", 0.5 s; the table also has the longest time without a new sign until the first word.

    python benchmarks/first_words.py
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pty
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_client.manager import start_new_kernel

from ainet.daemon import daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).parent / "results" / "first_words.json"
QUESTION = "Tell me about the sea. " * 60


@contextlib.contextmanager
def cold_node(folder: Path) -> Iterator[Path]:
    """Start a node with one thread; its model was never read."""
    daemon.up(folder, {"name": "cold", "threads": 1, "memory": "2GB"})
    try:
        yield folder
    finally:
        daemon.down(folder)


def in_a_notebook(folder: Path) -> list[float]:
    """Return the times (s) after the question at which the output changed."""
    environment = {**os.environ, "AINET_DATA_DIR": str(folder)}
    manager, client = start_new_kernel(kernel_name="python3", env=environment)
    try:
        client.execute_interactive("%load_ext ainet", timeout=60)
        times = []
        begun = time.monotonic()
        asked = client.execute(f"%%ainet ask --max-tokens 8 --temperature 0\n{QUESTION}")
        while True:
            message = client.get_iopub_msg(timeout=120)
            if message["parent_header"].get("msg_id") != asked:
                continue
            if message["msg_type"] in {"display_data", "update_display_data"}:
                times.append(time.monotonic() - begun)
                if message["content"]["data"].get("text/plain"):
                    return times
            if message["msg_type"] == "error":
                raise RuntimeError(message["content"]["evalue"])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def in_a_terminal(folder: Path) -> list[float]:
    """Return the times (s) after the command at which the terminal changed, until the first word."""
    control, terminal = pty.openpty()
    environment = {**os.environ, "AINET_DATA_DIR": str(folder)}
    command = [sys.executable, "-m", "ainet", "ask", "--max-tokens", "8", "--temperature", "0", QUESTION]
    begun = time.monotonic()
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as asking:
        os.close(terminal)
        times = []
        while select.select([control], [], [], 60)[0]:
            try:
                data = os.read(control, 4096)
            except OSError:
                break
            times.append(time.monotonic() - begun)
            if not data or data.endswith(b"\x1b[K"):  # the line of progress goes, words follow
                break
        asking.terminate()
    os.close(control)
    return times


def main() -> None:
    """Measure, print a table and keep it."""
    found = {}
    for place, look in (("notebook", in_a_notebook), ("terminal", in_a_terminal)):
        with tempfile.TemporaryDirectory() as folder, cold_node(Path(folder)) as node:
            times = look(node)
        gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
        found[place] = {"first": times[0], "longest_gap": max(gaps), "signs": len(times), "first_word": times[-1]}
    print(f"{'where':10}  first sign  longest gap  signs  first word   first sign / 0.5 s")
    for place, row in found.items():
        print(
            f"{place:10}  {row['first']:8.2f} s  {row['longest_gap']:9.2f} s  {row['signs']:5}  "
            f"{row['first_word']:8.2f} s   {row['first'] / 0.5:.2f}"
        )
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
