"""Bringing the storage up to date with a folder: what is new, changed, moved or gone."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

from ainet.context.walk import MOST_BYTES, SeenFile, walk
from ainet.errors import UsageError
from ainet.storage.records import Fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ainet.storage.hybrid import HybridStorage
    from ainet.storage.records import Folder, Passage, Source

#: How often a file is read again that changes while it is read.
TRIES = 3
#: What is noted of a file that could not be read.
NO_HASH = b""
#: Files that are parsed at once, and bytes of them after which no further one is taken along: asking costs some
#: milliseconds.
MOST_AT_ONCE, BYTES_AT_ONCE = 32, 256 * 1024
#: Files with a time as recent as this (ns; that of FAT has two seconds) are read once more at the next look: then they
#: have this time.
TICK, UNKNOWN = 2_000_000_000, -1


class Updated(NamedTuple):
    """What an update has done: files that were seen, and of them, by what happened to them."""

    seen: int = 0
    read: int = 0
    moved: int = 0
    gone: int = 0
    problems: int = 0


class _Taken(NamedTuple):
    """A file that was read, and is to be parsed."""

    path: str
    fingerprint: Fingerprint
    data: bytes


class Update:
    """Brings one folder up to date.

    Parameters
    ----------
    storage
        What is known.
    folder
        The folder, or file.
    parser
        Names what makes the passages of a file now, by its path; what another one made is made anew.
    parse
        Makes the passages of files, from their paths and bytes, in their order; a `UsageError` for one that cannot be
        read.
    proceed
        Called before each file that is read with the number of those that are stored, and of all; the update ends when
        it answers False.
    is_left_out
        Whether a path in the folder is not to be known.
    """

    def __init__(
        self,
        storage: HybridStorage,
        folder: Folder,
        *,
        parser: Callable[[str], str],
        parse: Callable[[Sequence[tuple[str, bytes]]], Sequence[Sequence[Passage] | UsageError]],
        proceed: Callable[[int, int], bool] = lambda _done, _total: True,
        is_left_out: Callable[[str], bool] = lambda _path: False,
    ) -> None:
        self._storage = storage
        self._folder = folder
        self._parser = parser
        self._parse = parse
        self._proceed = proceed
        self._is_left_out = is_left_out
        #: The folders that were looked through last.
        self.folders: list[str] = []

    def run(self, only: Collection[str] | None = None) -> Updated:
        """Look through the folder, and read what has changed.

        Parameters
        ----------
        only
            The folders within it whose files are looked at; see `walk`.

        Raises
        ------
        OSError
            The folder cannot be listed. What is known of it stays: a disk may be unplugged.
        """
        found = walk(Path(self._folder.path), only)
        for path in [path for path in found.files if self._is_left_out(path)]:
            del found.files[path]
        known = self._storage.sources(self._folder.id)
        gone = {
            path: source
            for path, source in known.items()
            if path not in found.files and path not in found.problems and (only is None or _folder_of(path) in only)
        }
        self.folders = found.folders
        changed = [path for path, seen in found.files.items() if not self._is_known(known.get(path), seen)]
        read = moved = problems = 0
        is_done = False
        taken: list[_Taken] = []
        by_hash = {source.fingerprint.hash: path for path, source in gone.items()}
        for i, path in enumerate(changed):
            if not self._proceed(i - len(taken), len(changed)):
                break
            try:
                data, seen = _read(Path(self._folder.path) / path)
            except FileNotFoundError:
                continue  # the next look at the folder notices
            except (OSError, UsageError) as exc:
                reason = str(exc) if isinstance(exc, UsageError) else f"cannot be read ({exc.strerror})"
                self._note(path, Fingerprint(*found.files[path], NO_HASH), known.get(path), reason)
                problems += 1
                continue
            fingerprint = Fingerprint(seen.size, seen.modified, hashlib.sha256(data).digest())
            before = known.get(path)
            parser = self._parser_of(path)
            if before is not None and (before.fingerprint.hash, before.parser) == (fingerprint.hash, parser):
                self._storage.touch(before.id, seen.size, seen.modified)
                continue
            old = by_hash.pop(fingerprint.hash, None) if before is None else None
            if old is not None and gone[old].parser == parser and _suffix(old) == _suffix(path):
                self._storage.move(gone.pop(old).id, path, seen.modified)
                moved += 1
                continue
            read += 1
            taken.append(_Taken(path, fingerprint, data))
            if len(taken) >= MOST_AT_ONCE or sum(len(one.data) for one in taken) >= BYTES_AT_ONCE:
                problems += self._take(taken)
                taken = []
        else:
            for path, reason in found.problems.items():
                self._note(path, Fingerprint(0, 0, NO_HASH), known.get(path), reason)
                problems += 1
            for source in gone.values():
                self._storage.remove(source.id)
            is_done = True
        problems += self._take(taken)
        return Updated(len(found.files), read, moved, len(gone) if is_done else 0, problems)

    def _parser_of(self, path: str) -> str:
        return self._parser(path or self._folder.path)

    def _is_known(self, source: Source | None, seen: SeenFile) -> bool:
        return (
            source is not None
            and source.parser == self._parser_of(source.path)
            and source.fingerprint.looks_like(*seen)
        )

    def _take(self, taken: Sequence[_Taken]) -> int:
        """Store the passages of files; returns how many have none."""
        found = self._parse([(one.path or self._folder.path, one.data) for one in taken]) if taken else ()
        for one, passages in zip(taken, found, strict=True):
            if isinstance(passages, UsageError):
                self._store(one.path, one.fingerprint, (), passages.message)
            else:
                self._store(one.path, one.fingerprint, passages, "")
        return sum(isinstance(passages, UsageError) for passages in found)

    def _note(self, path: str, fingerprint: Fingerprint, known: Source | None, problem: str) -> None:
        """Store why a file has no passages, unless that is known."""
        if known is None or known.problem != problem or known.passages:
            self._store(path, fingerprint, (), problem)

    def _store(self, path: str, fingerprint: Fingerprint, passages: Sequence[Passage], problem: str) -> None:
        version = self._storage.stage(
            self._folder.id, path, fingerprint, parser=self._parser_of(path), passages=passages, problem=problem
        )
        self._storage.commit(version)


def _read(path: Path) -> tuple[bytes, SeenFile]:
    """Return what a file says, as it was at one time.

    Raises
    ------
    UsageError
        It has become too large, is no file any more, or changes all the time.
    """
    for _ in range(TRIES):
        # It may have become a pipe, on which opening would wait.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise UsageError("is no file any more")
            data = file.read(MOST_BYTES + 1)
            after = os.fstat(file.fileno())
        if len(data) > MOST_BYTES:
            raise UsageError("has become too large")
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) and len(data) == after.st_size:
            # Within one tick of the clock it may change once more, with the same time.
            is_old = time.time_ns() - after.st_mtime_ns > TICK
            return data, SeenFile(after.st_size, after.st_mtime_ns if is_old else UNKNOWN)
    raise UsageError("changes while it is read")


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def _suffix(path: str) -> str:
    return PurePath(path).suffix.lower()
