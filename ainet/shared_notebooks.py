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
import secrets
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import nbformat
from jupyter_ydoc import YNotebook
from tornado.web import HTTPError

from ainet.errors import AinetError, NotFound, PeerUnreachable, Refused, UsageError
from ainet.identity.files import make_private_dir, write_private
from ainet.network.documents import NOTEBOOK, check_name
from ainet.storage.notebook import EMPTY, Notebook, mark_runs, merge

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ainet.node import Node
    from ainet.storage import Document

LOG = "shares"
MAX_NAME = 80  # characters of a share's name
#: The file and the live document are looked at this often (s).
LOOK_SECONDS = 0.5
#: A sharer that does not send its notebook in this time (s) is not there.
OPEN_SECONDS = 20.0


class Share(msgspec.Struct, frozen=True):
    """What a node says of a notebook that it shares: its log ``shares``, under the share's name.

    `id` is random: what is shared later under the same name is another document.
    """

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
    read_only: bool
    since: float


class Listed(NamedTuple):
    """A share, who shares it (node id), and its name."""

    sharer: str
    name: str
    share: Share

    @property
    def document(self) -> str:
        """The name of the shared document, which nobody else can give to another one."""
        return f"{NOTEBOOK}{self.name}~{self.sharer[:16]}~{self.share.id}"


class Remembered(msgspec.Struct, frozen=True):
    """What is noted of a shared notebook for the next start."""

    document: str
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
        if self._room is not None:  # what it has is perhaps not saved
            with contextlib.suppress(HTTPError, OSError):
                await self._write_file(self._base)
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
        left = room is None and self._room is not None
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
        if left:
            self._base = mine  # whatever was changed in the live document is shared already; its file may be older
        merged = self._merged(mine)
        self._base = mine  # until the file is written
        if merged != mine:
            try:
                await self._write_file(merged)
            except BaseException:
                self._behind = True
                raise
        self._base = merged

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
            if not mine.get("nbformat"):  # it is still being loaded
                self._behind = True
                return
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
        return merged

    def _shared(self) -> YNotebook:
        return self._document.view(YNotebook)

    def _remember(self) -> None:
        if self._base != self._remembered:
            noted = Remembered(self._document.name, self.name, self.path, self.may_write, self._base)
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
        shared = {listed.document: listed for listed in self._shares()}
        for memory in self._folder.glob("*.json"):
            try:
                noted = msgspec.json.decode(memory.read_bytes(), type=Remembered)
                if noted.document not in shared or not await self._exists(noted.path):
                    self._log.info("The notebook %s is not shared any more.", noted.name)
                    memory.unlink()
                    self._node.documents.delete(noted.document)
                    continue
                await self._begin(shared[noted.document], noted.path, may_write=noted.may_write, base=noted.base)
            except (AinetError, HTTPError, OSError, ValueError) as exc:
                self._log.warning("The shared notebook in %s is left alone: %s", memory, exc)

    async def stop(self) -> None:
        """Stop keeping notebooks up to date; the next start goes on."""
        for document in list(self._open):
            await self._close(document)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def list(self) -> list[dict[str, Any]]:
        """Return every shared notebook: its name, who shares it, whether it may be changed, the file here."""
        names = {member.id: member.name for member in self._node.identity.roster.members}
        found = [
            {
                "name": listed.name,
                "by": names[listed.sharer],
                "own": listed.sharer == self._node.id,
                "read_only": listed.share.read_only,
                "path": self._open[listed.document].path if listed.document in self._open else None,
            }
            for listed in self._shares()
        ]
        return sorted(found, key=lambda one: (str(one["name"]), str(one["by"])))

    async def share(self, path: str, name: str | None = None, *, read_only: bool = False) -> dict[str, Any]:
        """Share the notebook at `path` with the swarm.

        Raises
        ------
        NotFound
            There is no such notebook.
        UsageError
            This device shares one under this name already, or the name cannot be one.
        """
        path = path.strip("/")
        name = name or PurePosixPath(path).stem
        if not 1 <= len(name) <= MAX_NAME:
            msg = f"The name of a shared notebook has 1 to {MAX_NAME} characters."
            raise UsageError(msg)
        listed = Listed(self._node.id, name, Share(secrets.token_hex(8), read_only, self._node.identity.now()))
        check_name(listed.document)
        if any((one.sharer, one.name) == (listed.sharer, name) for one in self._shares()):
            msg = f"A notebook called {name!r} is shared by this device already. Choose another name (--name)."
            raise UsageError(msg)
        if not await self._exists(path):
            msg = f"There is no notebook {path!r} in this Jupyter server's folder."
            raise NotFound(msg)
        await self._begin(listed, path, may_write=True)
        self._node.logs.publish(LOG, {name: listed.share})
        return {"name": name, "path": path, "read_only": read_only}

    async def unshare(self, name: str) -> dict[str, Any]:
        """Stop sharing a notebook of this device; the others keep their copies of the file."""
        for listed in self._shares():
            if (listed.sharer, listed.name) == (self._node.id, name):
                self._node.logs.publish(LOG, {name: None})
                await self._close(listed.document, for_ever=True)
                return {"name": name}
        msg = f"This device shares no notebook called {name!r}."
        raise NotFound(msg)

    async def open(self, name: str, path: str | None = None) -> dict[str, Any]:
        """Open a notebook that another device shares; changes then go both ways.

        Parameters
        ----------
        name
            Of the share; ``NAME@DEVICE`` when several devices share one of this name.
        path
            The file to make of it; by default its name with ``.ipynb``.

        Raises
        ------
        NotFound
            Nobody shares one of this name.
        PeerUnreachable
            The device that shares it cannot be reached.
        UsageError
            The file exists already, or several devices share one of this name.
        """
        listed = self._find(name)
        may_write = listed.sharer == self._node.id or not listed.share.read_only
        here = self._open.get(listed.document)
        if here is not None:
            return {"name": listed.name, "path": here.path, "read_only": not may_write}
        path = (path or f"{listed.name}.ipynb").strip("/")
        if await self._exists(path):
            msg = f"{path} exists already in this Jupyter server's folder. Name another file (--as)."
            raise UsageError(msg)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._node.documents.fetch(listed.document, listed.sharer)
            await self._begin(listed, path, may_write=may_write)
        except BaseException as exc:
            self._node.documents.delete(listed.document)
            if isinstance(exc, TimeoutError):
                msg = f"{listed.name} did not come within {OPEN_SECONDS:g} seconds. Try again."
                raise PeerUnreachable(msg) from exc
            raise
        return {"name": listed.name, "path": path, "read_only": not may_write}

    async def _begin(self, listed: Listed, path: str, *, may_write: bool, base: Notebook | None = None) -> None:
        document = self._node.documents.open(listed.document)
        notebook = SharedNotebook(
            self._folder / f"{hashlib.sha256(listed.document.encode()).hexdigest()[:32]}.json",
            name=listed.name,
            path=path,
            document=document,
            may_write=may_write,
            contents=self._contents,
            live=self._live,
            ran=self._ran,
            log=self._log,
        )
        await notebook.start(base=base)
        self._open[document.name] = notebook
        self._unwatch[document.name] = self._node.documents.watch(document.name, notebook.changed)

    async def _close(self, document: str, *, for_ever: bool = False) -> None:
        notebook = self._open.pop(document, None)
        if notebook is not None:
            self._unwatch.pop(document)()
            await notebook.stop()
            if for_ever:
                notebook.forget()
                self._node.documents.delete(document)

    def _ran(self) -> dict[str, Any]:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {"device": self._node.name, "user": getpass.getuser(), "time": when}

    def _shares(self) -> Sequence[Listed]:
        """Return what the members share."""
        logs = self._node.logs
        return [
            Listed(member.id, name, share)
            for member in self._node.identity.roster.members
            for name in logs.keys(member.id, LOG)
            if (share := logs.get(member.id, LOG, name, Share)) is not None
        ]

    def _find(self, name: str) -> Listed:
        names = {member.id: member.name for member in self._node.identity.roster.members}
        shares = self._shares()
        found = [one for one in shares if name in (one.name, f"{one.name}@{names[one.sharer]}")]
        if not found:
            known = ", ".join(one.name for one in shares) or "none"
            msg = f"Nobody shares a notebook called {name!r}. Shared are: {known}."
            raise NotFound(msg)
        if len(found) > 1:
            several = ", ".join(f"{one.name}@{names[one.sharer]}" for one in found)
            msg = f"Several devices share a notebook called {name!r}. Say which: {several}."
            raise UsageError(msg)
        return found[0]

    def _may_write(self, document: str, node: str) -> None:
        """Raise `Refused` unless the node may change the document."""
        if not document.startswith(NOTEBOOK):
            return
        listed = next((one for one in self._shares() if one.document == document), None)
        if listed is None:
            msg = "That notebook is not shared any more."
            raise Refused(msg)
        if listed.share.read_only and node != listed.sharer:
            msg = f"{listed.name!r} may only be read."
            raise Refused(msg)

    def _log_changed(self, author: str, log: str) -> None:
        if log != LOG:
            return
        shared = {listed.document for listed in self._shares()}
        for document in [document for document in self._open if document not in shared]:
            self._log.info("The notebook %s is not shared any more.", self._open[document].path)
            task = asyncio.create_task(self._close(document, for_ever=True))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _exists(self, path: str) -> bool:
        return bool(await self._contents.file_exists(path))
