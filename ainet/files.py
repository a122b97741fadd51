"""Files that only the owner of the device may read."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ainet.errors import AinetError

if TYPE_CHECKING:
    import logging


def make_private_dir(path: Path) -> Path:
    """Create `path` (0700) when it is missing, and return it."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, data: bytes) -> None:
    """Replace the file at `path` (0600) by `data`: after a crash it holds the old bytes or the new ones.

    Raises
    ------
    AinetError
        It cannot be written.
    """
    name = ""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mkstemp makes it 0600
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException as exc:
        if name:
            Path(name).unlink(missing_ok=True)
        if not isinstance(exc, OSError):
            raise
        raise AinetError(f"{path} cannot be written: {exc.strerror or exc}.") from exc


class KeptFile:
    """A private file whose content is replaced again and again, in a thread: a slow disk keeps no event loop waiting.

    Parameters
    ----------
    path
        The file.
    log
        For content that could not be written: the next one is tried nevertheless.
    """

    def __init__(self, path: Path, log: logging.Logger) -> None:
        self.path = path
        self._log = log
        self._waiting: bytes | None = None
        self._writing: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        """Replace the content soon, or at once where no event loop runs; of several that wait, the last one counts."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._write(data)
            return
        self._waiting = data
        if self._writing is None or self._writing.done():
            self._writing = loop.create_task(self._write_all(), name=f"writing {self.path.name}")

    async def flush(self) -> None:
        """Wait until the file holds what was written last."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    async def delete(self) -> None:
        """Remove the file, with what waits."""
        self._waiting = None
        await self.flush()
        await asyncio.to_thread(self.path.unlink, missing_ok=True)

    async def _write_all(self) -> None:
        while self._waiting is not None:
            data, self._waiting = self._waiting, None
            await asyncio.to_thread(self._write, data)

    def _write(self, data: bytes) -> None:
        try:
            write_private(self.path, data)
        except AinetError as exc:
            self._log.warning("%s", exc.message)
