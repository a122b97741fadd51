"""A storage whose process is killed at any of its statements opens clean, with everything that was acknowledged."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from support.storing import CHANGES, change, in_tables

from ainet.storage.hybrid import HybridStorage

TESTS = Path(__file__).parents[2]


def states(folder, seed):
    """What is known before the first change, and after each."""
    storage = HybridStorage(folder)
    root, chosen, known = storage.add_folder("/home/ada").id, random.Random(seed), {}
    found = [dict(known)]
    for number in range(CHANGES):
        change(storage, root, known, chosen, number, table=folder / "table")
        found.append(dict(known))
    storage.close()
    return found


def killed(folder, seed, *statements):
    """Have processes make the changes until they kill themselves before these statements."""
    command = [sys.executable, "-m", "support.storing", str(folder), str(seed), *map(str, statements)]
    subprocess.run(command, cwd=TESTS, timeout=120, check=True)


def acknowledged(folder):
    """Return how many changes were acknowledged, and whether all was done."""
    said = folder / "said"
    lines = said.read_text().splitlines() if said.exists() else []
    return lines.count("done") == 1, sum(line != "done" for line in lines)


def checked(folder):
    """What a storage knows that was left behind: its sources by their paths."""
    storage = HybridStorage(folder)
    assert storage.check() == []
    found = {}
    for root in storage.folders():
        for path, source in storage.sources(root.id).items():
            rows = storage._database.ask(
                "SELECT passages.id FROM passages JOIN versions ON versions.id = version WHERE source = ?", (source.id,)
            )
            numbers = [number for (number,) in rows]
            found[path] = "\n".join(one.passage.text for one in storage.passages(numbers))
            for line in found[path].splitlines():  # each of them is found by its words
                assert {one.id for one in storage.search(line)} & set(numbers)
    on_disk = in_tables(folder / "table")
    for index in storage.indexes():
        current = {number for (number,) in storage._database.ask("SELECT id FROM current_passages")}
        assert set(storage.embedded(index.id)[1]) <= on_disk
        assert len(on_disk - current) <= index.owed
    storage.close()
    return found


def test_after_a_kill_at_any_statement_all_is_there_and_nothing_half(tmp_path):
    expected = states(tmp_path / "expected", seed=5)
    statements = range(0, 450, 4)  # of 420
    killed(tmp_path, 5, *statements)
    kills = 0
    for statement in statements:
        is_done, n = acknowledged(tmp_path / str(statement))
        assert checked(tmp_path / str(statement)) in expected[n : n + 2], (statement, n)
        kills += not is_done
    assert 100 < kills < len(statements)


def test_kills_at_random_of_one_storage_that_goes_on(tmp_path):
    """The same files, changed again and again by processes that do not live to the end."""
    chosen, folder = random.Random(11), tmp_path / "0"
    for _ in range(15):
        statement = chosen.randrange(300)
        folder = folder.rename(tmp_path / str(statement)) if folder.exists() else tmp_path / str(statement)
        killed(tmp_path, chosen.randrange(1000), statement)
        checked(folder)
