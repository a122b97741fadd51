"""Looking through a folder: which files there are that may be read."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

from ainet.context.left_out import Rules, why_left_out
from ainet.units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Collection

#: Bytes of the largest file that is read, and folders within each other.
MOST_BYTES, DEEPEST = 20_000_000, 60


class SeenFile(NamedTuple):
    """A file that may be read: its size (bytes) and its time (ns)."""

    size: int
    modified: int


class Walk(NamedTuple):
    """What was seen in a folder, by paths in it: files, and those that cannot be read, with the reason.

    `folders`: full paths of the folders in which something new can appear.
    """

    files: dict[str, SeenFile]
    problems: dict[str, str]
    folders: list[str]


def walk(root: Path, only: Collection[str] | None = None) -> Walk:
    """Look through a folder, or at a file; links are not followed.

    Parameters
    ----------
    only
        The folders within it, by their paths in it (empty: itself), whose files are looked at; None for all.

    Raises
    ------
    OSError
        It is not there, or cannot be listed.
    """
    found = Walk({}, {}, [])
    if root.is_file():
        _see(found, "", root.stat())
        found.folders.append(str(root.parent))
        return found
    above = {str(parent) for path in only or () for parent in (PurePath(path), *PurePath(path).parents)}
    waiting = [(str(root), "", Rules(root), 0)]
    while waiting:
        folder, prefix, rules, depth = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as exc:
            if not prefix:
                raise
            found.problems[prefix.rstrip("/")] = f"cannot be listed ({exc.strerror})"
            continue
        is_meant = only is None or prefix.rstrip("/") in only
        if is_meant:
            found.folders.append(folder)
        for entry in entries:
            path = prefix + entry.name
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
                if why_left_out(entry.name, is_folder=is_folder) or rules.ignore(entry.path, is_folder=is_folder):
                    continue
                if not (is_meant or (is_folder and path in above)):
                    continue
                if not is_folder:
                    _see(found, path, entry.stat(follow_symlinks=False))
                elif only is not None and path not in above:
                    continue
                elif depth < DEEPEST:
                    waiting.append((entry.path, path + "/", Rules(Path(entry.path), rules), depth + 1))
                else:
                    found.problems[path] = f"lies more than {DEEPEST} folders deep"
            except OSError as exc:
                found.problems[path] = f"cannot be looked at ({exc.strerror})"
    return found


def _see(found: Walk, path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        return  # a link, a socket, a pipe or a device
    if status.st_size > MOST_BYTES:
        found.problems[path] = f"has {show_bytes(status.st_size)}; at most {show_bytes(MOST_BYTES)} are read"
        return
    found.files[path] = SeenFile(status.st_size, status.st_mtime_ns)
