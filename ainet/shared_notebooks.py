"""Shared notebooks: one notebook, live in the Jupyter servers of several devices.

The shared document is a Yjs document of its own. On each device it is kept equal to what the device's users edit: the
live document of jupyter-collaboration while somebody has the notebook open there, the file otherwise. The two are
never merged as Yjs documents, since each server gives a notebook a history of its own; changes are carried over cell by
cell.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import hashlib
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec
import nbformat
from jupyter_ydoc import YNotebook
from tornado.web import HTTPError

from ainet.errors import AinetError, NotFound, Refused, UsageError
from ainet.identity.files import make_private_dir, write_private
from ainet.network.documents import NOTEBOOK, check_name
from ainet.storage.notebook import EMPTY, Notebook, mark_runs, merge

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from pathlib import Path

    from ainet.node import Node
    from ainet.storage import Document

LOG = "shares"
#: The file and the live document are looked at this often (s).
LOOK_SECONDS = 0.5
#: A sharer that does not send its notebook in this time (s) is not there.
OPEN_SECONDS = 20.0


class Share(msgspec.Struct, frozen=True):
    """What a node says of a notebook that it shares: its log ``shares``, under the share's name."""

    read_only: bool
    since: float


class Remembered(msgspec.Struct, frozen=True):
    """What is noted of a shared notebook for the next start."""

    name: str
    path: str
    may_write: bool
    base: dict[str, Any]


class SharedNotebook:
    """A shared notebook on this device.

    Parameters
    ----------
    memory
        File in which it is noted what both sides were when they were last equal, for the next start.
    name, path
        Of the share; of the file, relative to the server's root.
    document
        The shared document.
    may_write
        Whether this device's changes are shared; otherwise they are undone.
    ran
        What cells that were run here are marked with.
    """

    def __init__(
        self,
        memory: Path,
        *,
        name: str,
        path: str,
        document: Document,
        may_write: bool,
        contents: Any,
        live: Callable[[str], Any],
        ran: Callable[[], dict[str, Any]],
        log: logging.Logger,
    ) -> None:
        self._memory = memory
        self._remembered: Notebook | None = None
        self.name, self.path = name, path
        self.may_write = may_write
        self._document = document
        self._contents = contents
        self._live = live
        self._ran = ran
        self._log = log
        self._base: Notebook = EMPTY
        self._room: Any = None
        self._observed: Any = None
        self._saved = ""  # when the file was last changed
        self._wake = asyncio.Event()
        self._busy = self._due = False
        self._behind = True  # whether the shared document changed since it was last looked at
        self._task: asyncio.Task[None] | None = None

    async def start(self, *, base: Notebook | None = None) -> None:
        """Begin to keep both equal.

        Parameters
        ----------
        base
            What both were when they were last equal. None for a notebook that is new here: a new shared document then
            begins as the file, and a file as the shared document of others.
        """
        if base is not None:
            self._base = base
        elif self._document.size:
            self._base = self._shared().get()
            await self._write_file(self._base)
        else:
            self._shared().set(await self._read_file())
            self._base = self._shared().get()
        self._remember()
        self._task = asyncio.create_task(self._run(), name=f"notebook {self.name}")

    async def stop(self) -> None:
        """Stop; the file stays as it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._leave()
        self._remember()

    def forget(self) -> None:
        """Remove what was noted for the next start."""
        self._memory.unlink(missing_ok=True)

    def changed(self, _update: bytes, origin: object) -> None:
        """Note that the shared document changed elsewhere."""
        if origin is not None:
            self._behind = True
            self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._settle()
                self._remember()
            except (AinetError, HTTPError, OSError) as exc:
                self._log.warning("The shared notebook %s is not up to date: %s", self.path, exc)
            except Exception:
                self._log.exception("The shared notebook %s is not up to date.", self.path)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()

    async def _settle(self) -> None:
        room = await self._live(self.path)
        if room is not self._room:
            self._leave()
            self._room = room
            self._behind = True
            if room is not None:
                self._observed = room.ydoc.observe(lambda _: self._edited(room))
        behind, self._behind = self._behind, False
        if room is not None:
            if behind:
                self._exchange(room)
            return
        model = await self._contents.get(self.path, content=False)
        if str(model["last_modified"]) == self._saved and not behind:
            return
        mine = await self._read_file()
        merged = self._merged(mine)
        if merged != mine:
            await self._write_file(merged)

    def _edited(self, room: Any) -> None:
        """Note that the live document changed: it cannot be read before that change is complete."""
        if not self._busy and not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._exchange, room)

    def _exchange(self, room: Any) -> None:
        """Carry changes over between the live and the shared document."""
        self._due = False
        if room is None or room is not self._room:
            return
        self._busy = True  # what follows changes the live document, too
        try:
            mine = room.get()
            merged = self._merged(mine)
            if merged != mine:
                room.set(merged)
                self._base = merged
        except Exception:
            self._log.exception("The shared notebook %s is not up to date.", self.path)
        finally:
            self._busy = False

    def _merged(self, mine: Notebook) -> Notebook:
        shared = self._shared()
        theirs = shared.get()
        merged = theirs
        if self.may_write and mine != self._base:
            merged = merge(self._base, mark_runs(self._base, mine, self._ran()), theirs)
            if merged != theirs:
                shared.set(merged)
                merged = shared.get()
                self._document.compact_if_due()
        self._base = merged
        return merged

    def _shared(self) -> YNotebook:
        return self._document.view(YNotebook)

    def _remember(self) -> None:
        if self._base != self._remembered:
            noted = Remembered(self.name, self.path, self.may_write, self._base)
            write_private(self._memory, msgspec.json.encode(noted))
            self._remembered = self._base

    def _leave(self) -> None:
        if self._room is not None and self._observed is not None:
            with contextlib.suppress(Exception):  # the room may be gone with its document
                self._room.ydoc.unobserve(self._observed)
        self._room = self._observed = None

    async def _read_file(self) -> Notebook:
        model = await self._contents.get(self.path, type="notebook", content=True)
        self._saved = str(model["last_modified"])
        content = nbformat.from_dict(model["content"])
        if (content["nbformat"], content["nbformat_minor"]) < (4, 5):
            content = nbformat.convert(content, 4)
            content["nbformat_minor"] = 5
            _, content = nbformat.validator.normalize(content)
        return msgspec.json.decode(msgspec.json.encode(content))

    async def _write_file(self, content: Notebook) -> None:
        model = await self._contents.save({"type": "notebook", "content": nbformat.from_dict(content)}, self.path)
        self._saved = str(model["last_modified"])


class Notebooks:
    """The notebooks that this node shares, or has opened from others.

    Parameters
    ----------
    node
        Its documents and logs.
    contents
        The Jupyter server's contents manager.
    live
        Returns the live document of a path, None while nobody has it open.
    log
        For what cannot be kept up to date.
    """

    def __init__(self, node: Node, contents: Any, live: Callable[[str], Any], log: logging.Logger) -> None:
        self._node = node
        self._folder = make_private_dir(node.data_dir / "shared_notebooks")
        self._contents = contents
        self._live = live
        self._log = log
        self._open: dict[str, SharedNotebook] = {}
        self._unwatch: dict[str, Callable[[], None]] = {}
        node.documents.guard(self._may_write)
        node.logs.on_change(self._log_changed)
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Go on with the notebooks that were shared and opened before."""
        for memory in self._folder.glob("*.json"):
            try:
                noted = msgspec.json.decode(memory.read_bytes(), type=Remembered)
                if self._sharer(noted.name) is None or not await self._exists(noted.path):
                    self._log.info("The notebook %s is not shared any more.", noted.name)
                    memory.unlink()
                    continue
                await self._begin(noted.name, noted.path, may_write=noted.may_write, base=noted.base)
            except (AinetError, HTTPError, OSError, ValueError) as exc:
                self._log.warning("The shared notebook in %s is left alone: %s", memory, exc)

    async def stop(self) -> None:
        """Stop keeping notebooks up to date; the next start goes on."""
        for name in list(self._open):
            await self._close(name)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def list(self) -> list[dict[str, Any]]:
        """Return every shared notebook: its name, who shares it, whether it may be changed, the file here."""
        names = {member.id: member.name for member in self._node.identity.roster.members}
        found = []
        for author, by in names.items():
            for name in self._node.logs.keys(author, LOG):
                share = self._node.logs.get(author, LOG, name, Share)
                here = self._open.get(name)
                if share is not None:
                    own = author == self._node.id
                    path = here.path if here else None
                    found.append({"name": name, "by": by, "own": own, "read_only": share.read_only, "path": path})
        return sorted(found, key=lambda one: str(one["name"]))

    async def share(self, path: str, name: str | None = None, *, read_only: bool = False) -> dict[str, Any]:
        """Share the notebook at `path` with the swarm.

        Raises
        ------
        NotFound
            There is no such notebook.
        UsageError
            Another one is shared under this name.
        """
        path = path.strip("/")
        name = name or PurePosixPath(path).stem
        check_name(NOTEBOOK + name)
        sharer = self._sharer(name)
        if sharer is not None:
            by = "this device" if sharer == self._node.id else "another device"
            msg = f"A notebook called {name!r} is shared by {by} already. Choose another name (--name)."
            raise UsageError(msg)
        if not await self._exists(path):
            msg = f"There is no notebook {path!r} in this Jupyter server's folder."
            raise NotFound(msg)
        self._node.documents.delete(NOTEBOOK + name)  # what may be left of an earlier share
        await self._begin(name, path, may_write=True)
        self._node.logs.publish(LOG, {name: Share(read_only, self._node.identity.now())})
        return {"name": name, "path": path, "read_only": read_only}

    async def unshare(self, name: str) -> dict[str, Any]:
        """Stop sharing a notebook of this device; the others keep their copies of the file."""
        if self._sharer(name) != self._node.id:
            msg = f"This device shares no notebook called {name!r}."
            raise NotFound(msg)
        self._node.logs.publish(LOG, {name: None})
        await self._close(name, for_ever=True)
        return {"name": name}

    async def open(self, name: str, path: str | None = None) -> dict[str, Any]:
        """Open a notebook that another device shares; changes then go both ways.

        Raises
        ------
        NotFound
            Nobody shares one of this name.
        PeerUnreachable
            Nobody who has it can be reached.
        UsageError
            The file exists already.
        """
        sharer = self._sharer(name)
        if sharer is None:
            names = ", ".join(str(one["name"]) for one in self.list()) or "none"
            msg = f"Nobody shares a notebook called {name!r}. Shared are: {names}."
            raise NotFound(msg)
        share = self._node.logs.get(sharer, LOG, name, Share)
        if name in self._open:
            return {"name": name, "path": self._open[name].path, "read_only": not self._open[name].may_write}
        path = (path or f"{name}.ipynb").strip("/")
        if await self._exists(path):
            msg = f"{path} exists already in this Jupyter server's folder. Name another file (--as)."
            raise UsageError(msg)
        async with asyncio.timeout(OPEN_SECONDS):
            await self._node.documents.fetch(NOTEBOOK + name, sharer)
        may_write = not share.read_only
        await self._begin(name, path, may_write=may_write)
        return {"name": name, "path": path, "read_only": not may_write}

    async def _begin(self, name: str, path: str, *, may_write: bool, base: Notebook | None = None) -> None:
        document = self._node.documents.open(NOTEBOOK + name)
        notebook = SharedNotebook(
            self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json",
            name=name,
            path=path,
            document=document,
            may_write=may_write,
            contents=self._contents,
            live=self._live,
            ran=self._ran,
            log=self._log,
        )
        await notebook.start(base=base)
        self._open[name] = notebook
        self._unwatch[name] = self._node.documents.watch(document.name, notebook.changed)

    async def _close(self, name: str, *, for_ever: bool = False) -> None:
        notebook = self._open.pop(name, None)
        if notebook is not None:
            self._unwatch.pop(name)()
            await notebook.stop()
            if for_ever:
                notebook.forget()
                self._node.documents.delete(NOTEBOOK + name)

    def _ran(self) -> dict[str, Any]:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {"device": self._node.name, "user": getpass.getuser(), "time": when}

    def _sharer(self, name: str) -> str | None:
        for member in self._node.identity.roster.members:
            if self._node.logs.get(member.id, LOG, name, Share) is not None:
                return member.id
        return None

    def _may_write(self, document: str, peer: str) -> None:
        """Raise `Refused` unless the member may change the document."""
        if not document.startswith(NOTEBOOK):
            return
        name = document.removeprefix(NOTEBOOK)
        sharer = self._sharer(name)
        share = self._node.logs.get(sharer, LOG, name, Share) if sharer else None
        if share is None or (share.read_only and peer != sharer):
            msg = f"The notebook {name!r} is not shared any more." if share is None else f"{name!r} may only be read."
            raise Refused(msg)

    def _log_changed(self, author: str, log: str) -> None:
        if log != LOG:
            return
        for name in [name for name in self._open if self._sharer(name) is None]:
            self._log.info("The notebook %s is not shared any more.", name)
            task = asyncio.create_task(self._close(name, for_ever=True))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _exists(self, path: str) -> bool:
        return bool(await self._contents.file_exists(path))
