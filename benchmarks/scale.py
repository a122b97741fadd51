"""What questions cost in a node that knows much: 10,000, 100,000 and a million passages, with vectors of all.

The passages are those of the standard library, and of copies of it in which a third of the longer words are others.
They are written into the storage of a node that is not running; all else is the node's own work: vectors, their
index, questions of a client (docstrings), at rest and while a folder of 2,000 files is read. Memory is what a process
would give back (USS). Every 20 ms the server is asked for its version; how long that takes beyond what it takes in a
node that knows nothing tells how long its loop was busy.

    python benchmarks/scale.py [PASSAGES …]
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import psutil
from context import _varied
from judged import docstrings, library

from ainet.api import context
from ainet.client.client import NodeClient
from ainet.daemon import daemon
from ainet.errors import UsageError
from ainet.passages.parse import parse
from ainet.storage.hybrid import HybridStorage
from ainet.storage.records import Fingerprint

if TYPE_CHECKING:
    from ainet.daemon.runtime import Runtime

RESULTS = Path(__file__).parent / "results" / "scale.json"
SIZES = (10_000, 100_000, 1_000_000)
QUESTIONS, FILES = 200, 2000
#: A node whose processes take less than this part of a core for some seconds has nothing to do.
IDLE, SECONDS = 0.03, 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    options = parser.parse_args()
    sentences()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for size in [0, *options.sizes]:
        work = Path(tempfile.mkdtemp(prefix="scale-"))
        try:
            results[str(size)] = measure(work, size, results.get("0", {}).get("server_mb", 0.0))
        finally:
            shutil.rmtree(work)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def measure(work: Path, size: int, empty: float) -> dict[str, Any]:
    """Return the figures of a node with this number of passages; of one that knows nothing for 0."""
    print(f"\n{size} passages:", flush=True)
    characters = fill(work / "data" / "context", size) if size else 0
    running, _ = daemon.up(work / "data", {"name": "desk", "stage_threads": 1})
    try:
        with NodeClient(running.url, running.token) as node:
            begun = time.monotonic()
            if size:
                while not (made := node.call(context.context).vectors) or any(one.left or one.owed for one in made):
                    time.sleep(1)
            settle(running)
            vectors = time.monotonic() - begun
            if not size:
                server = memory(psutil.Process(running.pid))
                with Lag(running) as lag:
                    time.sleep(SECONDS)
                print(f"  server {server:.0f} MB, answers within {lag.longest:.0f} ms")
                return {"server_mb": round(server, 1), "loop_ms": lag.longest}
            rest = times(node, QUESTIONS)
            with Lag(running) as lag:
                times(node, QUESTIONS // 2)
            settle(running)
            found = {
                "p50_ms": quantile(rest, 0.5),
                "p95_ms": quantile(rest, 0.95),
                "loop_ms": lag.longest,
                "server_mb": round(memory(psutil.Process(running.pid)), 1),
                "index_mb": round(index_memory(running), 1),
                "vectors_s": round(vectors - SECONDS, 1),
                "disk_by_text": round(size_of(work / "data" / "context") / characters, 2),
            }
            write(work / "files")
            node.call(context.context_add, str(work / "files"))
            busy: list[float] = []
            with Lag(running) as lag:
                while any(one.is_reading for one in node.call(context.context).folders):
                    busy += times(node, 5)
            found |= {"reading_p95_ms": quantile(busy, 0.95), "reading_loop_ms": lag.longest, "asked": len(busy)}
        print(
            f"  find p50 {found['p50_ms']}, p95 {found['p95_ms']} ms; while files are read "
            f"{found['reading_p95_ms']} ms\n"
            f"  loop busy for {found['loop_ms']} ms at most; while files are read {found['reading_loop_ms']} ms\n"
            f"  server {found['server_mb'] - empty:+.1f} MB, index process {found['index_mb']} MB\n"
            f"  all vectors and their index after {found['vectors_s']} s; disk {found['disk_by_text']} times the text",
            flush=True,
        )
        return found
    finally:
        daemon.down(work / "data")


def fill(folder: Path, size: int) -> int:
    """Write passages into a storage; returns the characters of their texts."""
    storage, made, characters = HybridStorage(folder), 0, 0
    number = storage.add_folder("/unplugged", "private").id
    parsed = []
    for path, data in library().items():
        try:
            parsed.append((path, parse(path, data)))
        except UsageError:
            continue
    copy = 0
    while made < size:
        for path, all_ in parsed:
            passages = all_[: size - made]
            if copy:
                passages = [msgspec.structs.replace(one, text=_varied(one.text, copy)) for one in passages]
            version = storage.stage(number, f"{copy}/{path}", Fingerprint(1, 1, b""), parser="1", passages=passages)
            storage.commit(version)
            made += len(passages)
            characters += sum(len(one.text.encode()) for one in passages)
            if made >= size:
                break
        copy += 1
    storage.scrub()
    storage.close()
    return characters


def write(folder: Path) -> None:
    """Write files of words of their own."""
    chosen = random.Random(5)
    words = sentences()
    folder.mkdir()
    for number in range(FILES):
        text = "\n\n".join(f"# Part {part}\n{' '.join(chosen.choices(words, k=6))}" for part in range(5))
        (folder / f"{number}.md").write_text(f"Number {number}.\n\n{text}\n")


@functools.cache
def sentences() -> list[str]:
    """Return the first sentences of docstrings; nothing is measured while they are read."""
    return [sentence for _, sentence in docstrings()]


def times(node: NodeClient, n: int) -> list[float]:
    """Return how long questions take, in milliseconds."""
    chosen = random.Random(time.time_ns() if n < QUESTIONS else 6)
    asked = chosen.sample(sentences(), n)
    found = []
    for question in asked:
        begun = time.perf_counter()
        node.call(context.find, question)
        found.append(1000 * (time.perf_counter() - begun))
    return found


def quantile(found: list[float], part: float) -> float:
    return round(statistics.quantiles(found, n=100)[round(100 * part) - 1], 1) if len(found) > 1 else 0.0


class Lag:
    """How long the server takes to say which version it has, again and again."""

    def __init__(self, running: Runtime) -> None:
        self._url = f"{running.url}api"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._found: list[float] = []

    def __enter__(self) -> Lag:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def longest(self) -> float:
        return round(max(self._found, default=0.0), 1)

    def _ask(self) -> None:
        with httpx.Client(trust_env=False) as client:
            while not self._over.wait(0.02):
                begun = time.perf_counter()
                client.get(self._url).raise_for_status()
                self._found.append(1000 * (time.perf_counter() - begun))


def settle(running: Runtime) -> None:
    """Wait until the node has nothing to do."""

    def used() -> float:
        return sum(sum(one.cpu_times()[:2]) for one in family(running))

    before = used()
    while True:
        time.sleep(SECONDS)
        now = used()
        if now - before < IDLE * SECONDS:
            return
        before = now


def family(running: Runtime) -> list[psutil.Process]:
    server = psutil.Process(running.pid)
    return [server, *server.children(recursive=True)]


def index_memory(running: Runtime) -> float:
    """Return the memory (MB) of the process that has LanceDB."""
    for process in family(running):
        if any("lancedb" in one.path for one in process.memory_maps()):
            return memory(process)
    return 0.0


def memory(process: psutil.Process) -> float:
    return float(process.memory_full_info().uss) / 1e6


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
