"""After an update the storage knows a folder as if it had seen it for the first time."""

from __future__ import annotations

import os
import random
import shutil
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ainet.context.update import Update
from ainet.errors import UsageError
from ainet.passages.parse import parse
from ainet.passages.version import PARSER
from ainet.storage.hybrid import HybridStorage


def one_by_one(parse_one):
    """What parses several files, of what parses one."""

    def parse_all(files):
        found = []
        for path, data in files:
            try:
                found.append(parse_one(path, data))
            except UsageError as exc:
                found.append(exc)
        return found

    return parse_all


class Desk:
    """A folder and a storage that knows it."""

    def __init__(self, folder, root=None):
        self.root = root or folder / "notes"
        self.root.mkdir(exist_ok=True)
        self.storage = HybridStorage(folder / "context")
        self.folder = self.storage.add_folder(str(self.root))
        self.parsed = []

    def update(self, **options):
        def noted(path, data):
            self.parsed.append(path)
            return options.get("parse", parse)(path, data)

        more = {name: value for name, value in options.items() if name != "parse"}
        parsing = one_by_one(noted)
        return Update(self.storage, self.folder, **{"parser": lambda _path: PARSER, **more}, parse=parsing).run()

    def known(self):
        """What is known of each file: its passages, and its problem."""
        found = {}
        for path, source in self.storage.sources(self.folder.id).items():
            rows = self.storage._database.ask(
                "SELECT passages.id FROM passages JOIN versions v ON v.id = version WHERE source = ?", (source.id,)
            )
            found[path] = ([one.passage for one in self.storage.passages([n for (n,) in rows])], source.problem)
        return found

    def numbers(self):
        return {path: source.id for path, source in self.storage.sources(self.folder.id).items()}


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path)
    yield made
    assert made.storage.check() == []
    made.storage.close()


def age(root):
    """Let all files be as old as files usually are."""
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (1_000_000_000, 1_000_000_000))


def test_only_what_has_changed_is_read(desk):
    for name in "abc":
        (desk.root / f"{name}.md").write_text(f"# {name}\nwords of {name}")
    age(desk.root)
    assert desk.update()._asdict() == {"seen": 3, "read": 3, "moved": 0, "gone": 0, "problems": 0}
    assert desk.update()._asdict() == {"seen": 3, "read": 0, "moved": 0, "gone": 0, "problems": 0}
    (desk.root / "a.md").touch()  # it says what it said
    (desk.root / "b.md").write_text("# b\nother words")
    (desk.root / "c.md").unlink()
    assert desk.update()._asdict() == {"seen": 2, "read": 1, "moved": 0, "gone": 1, "problems": 0}
    assert desk.parsed == ["a.md", "b.md", "c.md", "b.md"] or sorted(desk.parsed) == ["a.md", "b.md", "b.md", "c.md"]
    assert set(desk.known()) == {"a.md", "b.md"}
    assert desk.update(parser=lambda _path: "another").read == 2


def test_a_change_of_the_same_size_within_the_same_tick_is_seen(desk):
    (desk.root / "a.txt").write_text("one")
    at = time.time_ns()
    os.utime(desk.root / "a.txt", ns=(at, at))
    desk.update()
    (desk.root / "a.txt").write_text("two")
    os.utime(desk.root / "a.txt", ns=(at, at))
    assert desk.update().read == 1
    assert desk.known()["a.txt"][0][0].text == "two"


def test_files_and_folders_that_are_renamed_keep_their_identity(desk):
    (desk.root / "deep").mkdir()
    for name in ("a.py", "deep/b.py", "deep/c.py"):
        (desk.root / name).write_text(f"def {name[-4]}(): pass")
    desk.update()
    before = desk.numbers()
    (desk.root / "a.py").rename(desk.root / "renamed.py")
    (desk.root / "deep").rename(desk.root / "elsewhere")
    desk.parsed.clear()
    assert desk.update()._asdict() == {"seen": 3, "read": 0, "moved": 3, "gone": 0, "problems": 0}
    assert desk.parsed == []
    assert desk.numbers() == {
        "renamed.py": before["a.py"], "elsewhere/b.py": before["deep/b.py"], "elsewhere/c.py": before["deep/c.py"]
    }  # fmt: skip
    (desk.root / "renamed.py").rename(desk.root / "renamed.md")  # it is read in another way now
    assert desk.update().read == 1


def test_what_cannot_be_read_is_a_line(desk):
    (desk.root / "good.md").write_text("# good")
    (desk.root / "broken.ipynb").write_text("{")
    (desk.root / "binary.txt").write_bytes(b"\0\1")
    with (desk.root / "large.txt").open("wb") as file:
        file.truncate(30_000_000)
    assert desk.update().problems == 3
    problems = {path: problem for path, (passages, problem) in desk.known().items() if not passages}
    assert problems.keys() == {"broken.ipynb", "binary.txt", "large.txt"}
    assert "is not JSON" in problems["broken.ipynb"]
    assert problems["binary.txt"] == "is no text"
    assert "at most 20 MB" in problems["large.txt"]
    (desk.root / "broken.ipynb").write_text('{"cells": []}')
    (desk.root / "large.txt").write_text("small")
    desk.update()
    assert [path for path, (_, problem) in desk.known().items() if problem] == ["binary.txt"]


def test_a_file_that_vanishes_or_changes_while_it_is_read(desk, monkeypatch):
    (desk.root / "a.txt").write_text("one")
    (desk.root / "b.txt").write_text("two")

    def proceed(done, _total):
        if done == 0:
            for name in "ab":
                (desk.root / f"{name}.txt").unlink(missing_ok=True)
        return True

    assert desk.update(proceed=proceed).read == 0
    assert desk.known() == {}
    (desk.root / "c.txt").write_text("x")
    real, n = os.fstat, iter(range(100))
    monkeypatch.setattr(os, "fstat", lambda fd: _Other(real(fd), next(n)))
    desk.update()
    assert desk.known() == {"c.txt": ([], "changes while it is read")}


class _Other:
    def __init__(self, status, n):
        self.st_mode, self.st_size, self.st_mtime_ns = status.st_mode, status.st_size, status.st_mtime_ns + n


def test_a_file_that_has_become_a_pipe_or_a_link_stops_nothing(desk):
    (desk.root / "a.txt").write_text("one")
    (desk.root / "b.txt").write_text("two")

    def proceed(done, _total):
        if done == 0:
            for name in "ab":
                (desk.root / f"{name}.txt").unlink()
            os.mkfifo(desk.root / "a.txt")
            (desk.root / "b.txt").symlink_to("/etc/passwd")
        return True

    assert desk.update(proceed=proceed).read == 0
    assert all(not passages for passages, _ in desk.known().values())


def test_an_update_may_be_interrupted_and_goes_on(desk):
    for n in range(9):
        (desk.root / f"{n}.txt").write_text(f"words {n}")
    age(desk.root)
    asked = []

    def proceed(stored, total):
        asked.append((stored, total))
        return len(asked) <= 4

    assert desk.update(proceed=proceed).read == 4
    assert asked == [(0, 9)] * 5  # few small files are stored together
    assert desk.update().read == 5
    assert len(desk.known()) == 9


def test_a_folder_that_is_not_there_loses_nothing(desk):
    (desk.root / "a.txt").write_text("one")
    desk.update()
    shutil.move(desk.root, f"{desk.root}-away")
    with pytest.raises(FileNotFoundError):
        desk.update()
    assert set(desk.known()) == {"a.txt"}
    shutil.move(f"{desk.root}-away", desk.root)
    assert desk.update().gone == 0


def test_a_single_file_is_a_folder_of_its_own(tmp_path):
    (tmp_path / "only.py").write_text("def one(): pass")
    storage = HybridStorage(tmp_path / "context")
    folder = storage.add_folder(str(tmp_path / "only.py"))
    Update(storage, folder, parser=lambda _path: PARSER, parse=one_by_one(parse)).run()
    (source,) = storage.sources(folder.id).values()
    assert source.path == ""
    (found,) = storage.passages([one.id for one in storage.search("only one")])
    assert (found.folder, found.passage.name) == (str(tmp_path / "only.py"), "one")
    storage.close()


def test_a_parser_that_refuses_is_asked_once(desk):
    def refuse(_path, _data):
        raise UsageError("is not to my taste")

    (desk.root / "a.txt").write_text("one")
    age(desk.root)
    assert desk.update(parse=refuse).problems == 1
    assert desk.update(parse=refuse).read == 0
    assert desk.known() == {"a.txt": ([], "is not to my taste")}


NAMES = ["a.md", "b.py", "c.txt", "d/e.md", "d/f.py", "d/g/h.txt"]
TEXTS = ["# one\nwords", "def two(): pass\n\nx = 1", "three", "", "# one\nwords"]


def tamper(root, chosen):
    """Do something to the files, as people and editors do."""
    path = root / chosen.choice(NAMES)
    action = chosen.choice(["write", "write", "atomic", "move", "remove", "folder", "touch", "ignore"])
    path.parent.mkdir(parents=True, exist_ok=True)
    if action == "write":
        path.write_text(chosen.choice(TEXTS))
    elif action == "atomic":
        (root / "new~").write_text(chosen.choice(TEXTS))
        (root / "new~").replace(path)
    elif action == "move" and path.exists():
        target = root / chosen.choice(NAMES)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    elif action == "remove":
        path.unlink(missing_ok=True)
    elif action == "folder" and (root / "d").exists() and not (root / "k").exists():
        (root / "d").rename(root / "k")
    elif action == "touch" and path.exists():
        path.touch()
    elif action == "ignore":
        (root / ".gitignore").write_text(chosen.choice(["*.py", "d/", ""]))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 25), every=st.integers(1, 6))
def test_any_sequence_of_changes_ends_equal_to_a_fresh_look(tmp_path_factory, seed, n, every):
    """Some while nobody looks, and with a new start in between."""
    folder, chosen = tmp_path_factory.mktemp("desk"), random.Random(seed)
    desk = Desk(folder)
    for number in range(n):
        tamper(desk.root, chosen)
        if number % every == 0:
            desk.update()
        if number % 7 == 3:
            desk.storage.close()
            desk = Desk(folder)
    desk.update()
    fresh = Desk(tmp_path_factory.mktemp("fresh"), desk.root)
    fresh.update()
    assert desk.known() == fresh.known()
    assert desk.storage.check() == []
    for one in (desk, fresh):
        one.storage.close()
