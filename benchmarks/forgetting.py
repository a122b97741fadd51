"""Documents of two devices: how soon the second one has them, and how soon a forgotten one is on no disk.

Two nodes on loopback, with a folder of 20,000 documents of five passages each. Forgetting is over when neither the
words of the document nor the bytes of a vector are in any file of a device's data directory, which is read as a whole;
once also while somebody reads the database for some seconds. Times of `find` are those of a client of the node.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainet.api import context, swarm
from ainet.client.client import NodeClient
from ainet.daemon import daemon
from ainet.vectors.table import STORED
from ainet.vectors.word_llama import WordLlama

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parent / "results" / "forgetting.json"
PASSAGES = 5
#: Seconds for which somebody reads.
READING = 5.0
SYLLABLES = [f"{one}{vowel}" for one in "bdfgklmnprstvz" for vowel in "aeiou"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="?", type=int, default=20_000)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="forgetting-"))
    folders = [work / name for name in ("desk", "phone")]
    try:
        nodes = [daemon.up(folder, {"name": folder.name, "stage_threads": 1})[0] for folder in folders]
        with (
            NodeClient(nodes[0].url, nodes[0].token) as desk,
            NodeClient(nodes[1].url, nodes[1].token) as phone,
        ):
            phone.call(swarm.join, desk.call(swarm.invite).ticket)
            results = measure(desk, phone, folders, options.documents, work / "documents")
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    finally:
        for folder in folders:
            daemon.down(folder)
        shutil.rmtree(work)


def measure(desk: NodeClient, phone: NodeClient, folders: list[Path], n: int, documents: Path) -> dict[str, Any]:
    results: dict[str, Any] = {"documents": n, "passages": n * PASSAGES}

    def note(name: str, seconds: float, words: str) -> None:
        results[name] = round(seconds, 2)
        print(f"  {words}: {seconds:.2f} s", flush=True)

    print(f"{n} documents of {PASSAGES} passages, two devices:", flush=True)
    first = documents.with_name("first.md")
    first.write_text("The first one.")
    desk.call(context.context_add, str(first))
    wait_for(lambda: is_settled(desk))
    times(desk, 1)  # the worker with the vectors starts
    write(documents, n)
    begun = time.monotonic()
    desk.call(context.context_add, str(documents))
    busy = times_until(desk, lambda: not any(one.is_reading for one in desk.call(context.context).folders))
    note("known", time.monotonic() - begun, "all known on their device")
    wait_for(lambda: [one.here for one in phone.call(context.context).devices] == [n + 1])
    note("replicated", time.monotonic() - begun, "all known on the other device, since then")
    for client in (desk, phone):
        wait_for(lambda client=client: is_settled(client))
    note("vectors", time.monotonic() - begun, "with vectors on both")
    for number, name, words in (
        (n // 3, "forgotten", "forgotten on both disks"),
        (n // 2, "forgotten_while_read", f"the same, while somebody reads the database for {READING:g} s"),
    ):
        path, traces = documents / f"{number}.md", traces_of(documents / f"{number}.md")
        there = [trace in kept(folder) for folder in folders for trace in traces]
        assert all(there), f"there was nothing to forget: {there}"
        reader = None
        if name == "forgotten_while_read":
            reader = sqlite3.connect(folders[0] / "context" / "context.sqlite")
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM passages").fetchone()
        begun = time.monotonic()
        desk.call(context.context_forget, str(path))
        answered = time.monotonic() - begun
        assert all(str(path) != one.path for one in desk.call(context.find, path.read_text()[:60]).results)
        if reader is not None:
            time.sleep(max(READING - answered, 0))
            reader.close()
        wait_for(lambda: not any(trace in kept(folder) for folder in folders for trace in traces), 0.2)  # noqa: B023
        note(name, time.monotonic() - begun, words)
        note(f"{name}_answered", answered, "until it was answered")
    quiet = times(desk)
    results |= {"find_p95": percentile(quiet), "find_while_reading_p95": percentile(busy)}
    print(f"  find, p95: {percentile(quiet):.3f} s; while documents are read: {percentile(busy):.3f} s")
    text = sum(path.stat().st_size for path in documents.iterdir())
    for folder in folders:
        size = sum(path.stat().st_size for path in (folder / "context").rglob("*") if path.is_file())
        results[f"disk_{folder.name}"] = round(size / text, 2)
        print(f"  disk of the {folder.name}: {size / text:.1f} times the text")
    return results


def write(documents: Path, n: int) -> None:
    """Write documents of words that nobody knows, each with one that no other has."""
    chosen = random.Random(1)
    words = ["".join(chosen.choices(SYLLABLES, k=3)) for _ in range(20_000)]
    documents.mkdir()
    for number in range(n):
        sections = []
        for part in range(PASSAGES):
            first = "quartz" if part else "xylophone"
            sections.append(f"# Part {number} {part}\n{first}{number} {' '.join(chosen.choices(words, k=80))}.")
        (documents / f"{number}.md").write_text("\n\n".join(sections) + "\n")


def traces_of(path: Path) -> list[bytes]:
    """Return a word of the document that begins like no other one, and the bytes of a vector."""
    first = path.read_text().split("\n\n")[0]
    vector = WordLlama().passages([f"Part {path.stem} 0\n{first}"])[0]
    return [f"xylophone{path.stem} ".encode(), vector.astype(STORED).tobytes()]


def kept(folder: Path) -> bytes:
    found = []
    for parent, _, names in os.walk(folder / "context"):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a table may be replaced meanwhile
                found.append((Path(parent) / name).read_bytes())
    return b"".join(found)


def is_settled(client: NodeClient) -> bool:
    vectors = client.call(context.context).vectors
    return bool(vectors) and not any(one.left or one.owed for one in vectors)


def wait_for(condition: Callable[[], bool], pause: float = 1.0) -> None:
    while not condition():
        time.sleep(pause)


def times_until(client: NodeClient, is_over: Callable[[], bool]) -> list[float]:
    """Return the times of questions until something is over."""
    found: list[float] = []
    while not is_over():
        found += times(client, 5)
        time.sleep(2)
    return found


def times(client: NodeClient, n: int = 100) -> list[float]:
    chosen = random.Random(n)
    found = []
    for _ in range(n):
        question = " ".join("".join(chosen.choices(SYLLABLES, k=3)) for _ in range(6))
        begun = time.perf_counter()
        client.call(context.find, f"how {question}?")
        found.append(time.perf_counter() - begun)
    return found


def percentile(found: list[float]) -> float:
    return round(statistics.quantiles(found, n=20)[-1], 4) if len(found) > 1 else 0.0


if __name__ == "__main__":
    main()
