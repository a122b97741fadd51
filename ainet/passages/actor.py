"""The Dask actor that reads files in a worker, one at a time, and gives way to everything else."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

import msgspec

from ainet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

NICE = 10


class PassageActor:
    """Makes the passages of files."""

    def __init__(self) -> None:
        self._is_nice = False

    def parse(self, files: Sequence[tuple[str, bytes]]) -> list[tuple[bytes, str]]:
        """Return the passages of each file (its path and bytes), as MessagePack, and why there are none."""
        from ainet.passages.parse import parse  # the server, which names this class, does not load all that

        if not self._is_nice:
            # Of this thread alone: the worker serves other purposes afterwards.
            with contextlib.suppress(OSError, AttributeError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
            self._is_nice = True
        found = []
        for path, data in files:
            try:
                found.append((msgspec.msgpack.encode(parse(path, data)), ""))
            except UsageError as exc:
                found.append((b"", exc.message))
        return found
