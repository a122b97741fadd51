"""Changes to a storage, by processes that end themselves at one of its statements.

    python -m support.storing FOLDER SEED STATEMENT …

For each statement there is a process, with a storage of its own in the folder of this name.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
import sys
from pathlib import Path

from ainet.storage.hybrid import HybridStorage
from ainet.storage.records import Fingerprint, Passage

#: How many changes are made, to how many files.
CHANGES, FILES = 20, 4


def fingerprint(text: str) -> Fingerprint:
    return Fingerprint(len(text), 0, hashlib.sha256(text.encode()).digest())


def passages(text: str) -> list[Passage]:
    """Return a passage for each line."""
    return [
        Passage(line, "line", name=f"line{number}", first_line=number, last_line=number)
        for number, line in enumerate(text.splitlines(), 1)
    ]


def write(storage: HybridStorage, folder: int, path: str, text: str) -> None:
    """Have the storage know a file with this text."""
    version = storage.stage(folder, path, fingerprint(text), parser="lines", passages=passages(text))
    storage.commit(version)


def change(
    storage: HybridStorage,
    folder: int,
    known: dict[str, str],
    chosen: random.Random,
    number: int,
    *,
    table: Path | None = None,
) -> None:
    """Make one change, in the storage and in what is known of it; `table` is a file in place of one with vectors."""
    path = f"file{chosen.randrange(FILES)}.txt"
    actions = ["write", "write", "write", "stage", "drop", "move", "remove", "forget"]
    action = chosen.choice([*actions, "embed", "embed", "renew"] if table is not None else actions)
    text = "\n".join(f"zebra{number}x{line} of {path}" for line in range(chosen.randrange(1, 4)))
    if action == "write":
        write(storage, folder, path, text)
        known[path] = text
    elif action in ("stage", "drop"):
        version = storage.stage(folder, path, fingerprint(text), parser="lines", passages=passages(text))
        if action == "drop":
            storage.drop(version)
    elif action == "move" and path in known:
        moved = f"moved{number}.txt"
        storage.move(storage.sources(folder)[path].id, moved, 7)
        known[moved] = known.pop(path)
    elif action == "remove" and path in known:
        storage.remove(storage.sources(folder)[path].id)
        del known[path]
    elif action == "forget" and path in known:
        storage.forget([storage.sources(folder)[path].id])
        del known[path]
    elif action == "embed" and table is not None:
        embed(storage, table)
    elif action == "renew" and table is not None:
        renew(storage, table)


def embed(storage: HybridStorage, table: Path) -> None:
    """Make vectors of some passages: their numbers are lines of the table."""
    index = storage.open_index("m" * 64, "model", 4).id
    numbers = [one.id for one in storage.next_unembedded(index, 5)]
    with table.open("a") as file:
        file.writelines(f"{number}\n" for number in numbers)
    storage.note_embedded(index, numbers)


def renew(storage: HybridStorage, table: Path) -> None:
    """Write the table anew without what is owed."""
    found, keep = storage.embedded(storage.open_index("m" * 64, "model", 4).id)
    following = table.with_suffix(".next")
    following.write_text("".join(f"{number}\n" for number in keep))
    storage.note_rewritten(found.id)
    following.replace(table)
    storage.note_paid(found)


def in_tables(table: Path) -> set[int]:
    """Return the numbers of passages whose vectors are on the disk."""
    files = (table, table.with_suffix(".next"))
    return {int(line) for path in files if path.exists() for line in path.read_text().split()}


def run(folder: Path, seed: int, statement: int) -> None:
    """Make the changes, and end the process before this statement; each change that is made is a line of ``said``."""
    storage = HybridStorage(folder)
    numbers = itertools.count()

    def trace(_statement: str) -> None:
        if next(numbers) == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    storage._database.writer.set_trace_callback(trace)
    root = storage.add_folder("/home/ada").id
    chosen, known = random.Random(seed), dict[str, str]()
    with (folder / "said").open("a") as said:
        for number in range(CHANGES):
            change(storage, root, known, chosen, number, table=folder / "table")
            print(number, file=said, flush=True)
        storage.scrub()
        print("done", file=said, flush=True)


def main() -> None:
    folder, seed, statements = Path(sys.argv[1]), int(sys.argv[2]), map(int, sys.argv[3:])
    for statement in statements:
        child = os.fork()  # a new interpreter for each would take longer than all its changes
        if not child:
            run(folder / str(statement), seed, statement)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
