"""The notebook files of a Jupyter server, as two who save the same one need them: one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import nbformat
from jupyter_core.utils import ensure_async

from ainet.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ainet.sharing.notebook_merge import Notebook


class NotebookFiles:
    """Notebooks in the folder of a Jupyter server, through its contents manager.

    The contents managers of Jupyter write a file in place, in a thread: when two save it at once, what remains may be
    neither's, and no notebook. Users save while ainet writes what others changed, so from now on whoever saves a
    shared notebook through the manager waits for `turn`.

    Parameters
    ----------
    contents
        The contents manager, a synchronous or an asynchronous one.
    """

    def __init__(self, contents: Any) -> None:
        self._contents = contents
        self._turns: dict[str, asyncio.Lock] = {}
        self._ended: Counter[str] = Counter()  # how many turns each file has had
        self._late: set[str] = set()  # files that were saved by somebody who had waited for a turn
        self._save = contents.save
        if inspect.iscoroutinefunction(contents.save):  # another one is never interrupted
            contents.save = self._save_in_turn

    def close(self) -> None:
        """Leave the contents manager as it was."""
        if self._contents.__dict__.get("save") == self._save_in_turn:
            del self._contents.save

    def path(self, path: str) -> str:
        """Return a file's path in the server's folder; `path` may also be one of the operating system.

        Raises
        ------
        NotFound
            The file is somewhere else.
        """
        root, file = Path(getattr(self._contents, "root_dir", "")), Path(path)
        if not (root.is_absolute() and file.is_absolute()):
            return path.strip("/")
        if file.is_relative_to(root) and ".." not in file.parts:
            return file.relative_to(root).as_posix()
        with contextlib.suppress(OSError, ValueError):  # it cannot even be looked at
            if file.resolve().is_relative_to(root.resolve()):
                return file.resolve().relative_to(root.resolve()).as_posix()
            if not file.exists():
                return path.strip("/")
        raise NotFound(f"{path} is not in this Jupyter server's folder, {root}: copy it there to share it.")

    async def exists(self, path: str) -> bool:
        """Tell whether there is such a file."""
        return bool(await ensure_async(self._contents.file_exists(path)))

    async def changed(self, path: str) -> str:
        """Return when the file was last changed, as a string to compare."""
        return str((await ensure_async(self._contents.get(path, content=False)))["last_modified"])

    async def read(self, path: str) -> tuple[Notebook, str]:
        """Return the notebook in the form of nbformat 4.5 or later, and when the file was last changed before."""
        model = await ensure_async(self._contents.get(path, type="notebook", content=True))
        content = nbformat.from_dict(model["content"])
        if (content["nbformat"], content["nbformat_minor"]) < (4, 5):
            content = nbformat.convert(content, 4)
            content["nbformat_minor"] = 5
            _, content = nbformat.validator.normalize(content)
        return _plain(content), str(model["last_modified"])

    async def write(self, path: str, notebook: Notebook) -> None:
        """Write the notebook. Only in a `turn` is nobody else writing it."""
        await ensure_async(self._save({"type": "notebook", "content": nbformat.from_dict(notebook)}, path))

    @contextlib.asynccontextmanager
    async def turn(self, path: str) -> AsyncIterator[None]:
        """Let nobody else save the file through the contents manager meanwhile."""
        path = path.strip("/")
        async with self._turns.setdefault(path, asyncio.Lock()):
            try:
                yield
            finally:
                self._ended[path] += 1

    def saved_late(self, path: str) -> bool:
        """Whether somebody has saved the file who did not know what was written in the turn before; only once."""
        found = path.strip("/") in self._late
        self._late.discard(path.strip("/"))
        return found

    async def _save_in_turn(self, model: dict[str, Any], path: str = "") -> Any:
        name = path.strip("/")
        lock = self._turns.get(name)
        if lock is None:
            return await self._save(model, path)
        known = self._ended[name]
        async with lock:
            if self._ended[name] != known:
                self._late.add(name)
            return await self._save(model, path)


def as_saved(notebook: Notebook) -> Notebook:
    """Return the notebook as it is read once it was written."""
    return _plain(nbformat.reads(nbformat.writes(nbformat.from_dict(notebook)), 4))


def _plain(content: Any) -> Notebook:
    plain: Notebook = msgspec.json.decode(msgspec.json.encode(content))
    return plain
