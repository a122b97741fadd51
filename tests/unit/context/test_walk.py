"""Which files of a folder may be read."""

from __future__ import annotations

import os
import socket

import pytest

from ainet.context.left_out import why_left_out
from ainet.context.walk import DEEPEST, MOST_BYTES, walk


def make(root, *paths, text="x"):
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *((name, "secrets") for name in (
            ".env", ".env.local", "id_rsa", "id_ed25519.pub", "server.key", "cert.PEM", ".netrc", ".pypirc",
            "secrets.yaml", "credentials", "credentials.json", "wallet.kdbx", "api.token",
        )),
        *((name, "generated") for name in ("jquery.min.js", "app.js.map", "wire_pb2.py", "package-lock.json")),
        *((name, "no text") for name in ("a.png", "model.GGUF", "data.sqlite", "x.pyc")),
        *((name, "") for name in (
            "environment.yml", "keys.py", "tokens.md", "monkey.py", "Makefile", "admin.js", "secretary.txt",
            "id_rsa_notes",
        )),
    ],
)  # fmt: skip
def test_secrets_and_what_nobody_wrote_are_left_out_by_name(name, why):
    found = why_left_out(name)
    assert why in found
    assert bool(found) == bool(why)


def test_what_is_ignored_is_left_out_in_its_folder_and_below(tmp_path):
    make(
        tmp_path,
        "a.py",
        "b.log",
        "deep/c.log",
        "deep/keep.log",
        "build/x.py",
        "deep/build/y.py",
        "own/z.py",
        "own/w.md",
    )
    make(tmp_path, ".venv/lib.py", "deep/node_modules/m.js", ".git/config", "deep/.env")
    (tmp_path / ".gitignore").write_text("*.log\n/build/\n")
    (tmp_path / "deep/.gitignore").write_text("!keep.log\n")
    (tmp_path / "own/.ainetignore").write_text("*.py\n")
    found = walk(tmp_path)
    assert set(found.files) == {
        *("a.py", ".gitignore", "deep/.gitignore", "deep/keep.log", "deep/build/y.py", "own/w.md", "own/.ainetignore")
    }
    assert found.problems == {}
    assert {os.path.relpath(folder, tmp_path) for folder in found.folders} == {".", "deep", "deep/build", "own"}


def test_only_plain_files_are_seen_and_links_lead_nowhere(tmp_path):
    make(tmp_path, "a.py", "folder/b.py")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "folder/link.py").symlink_to(tmp_path / "a.py")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert set(walk(tmp_path).files) == {"a.py", "folder/b.py"}


def test_what_cannot_be_read_is_a_line_and_no_end(tmp_path):
    make(tmp_path, "a.py")
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    deep = tmp_path / "/".join(["d"] * (DEEPEST + 1))
    deep.mkdir(parents=True)
    found = walk(tmp_path)
    assert set(found.files) == {"a.py"}
    assert found.problems == {
        "large.txt": "has 20 MB; at most 20 MB are read",
        "/".join(["d"] * (DEEPEST + 1)): f"lies more than {DEEPEST} folders deep",
    }


def test_a_single_file_and_none(tmp_path):
    make(tmp_path, "a.py", text="four")
    found = walk(tmp_path / "a.py")
    assert found.files[""].size == 4
    assert found.files[""].modified == (tmp_path / "a.py").stat().st_mtime_ns
    with pytest.raises(OSError, match="gone"):
        walk(tmp_path / "gone")
