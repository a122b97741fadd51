"""One shared notebook on this device: the shared document, kept equal to the file or to the live document."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
from jupyter_ydoc import YNotebook
from tornado.web import HTTPError

from ainet.errors import AinetError
from ainet.files import KeptFile
from ainet.sharing.cell_changes import put, with_their_changes
from ainet.sharing.notebook_files import as_saved
from ainet.sharing.notebook_merge import EMPTY, Notebook, mark_runs, merge, with_trust, without_trust

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from pathlib import Path

    from ainet.documents.document import Document
    from ainet.sharing.notebook_files import NotebookFiles

#: The file and the live document are looked at this often (s).
LOOK_SECONDS = 0.5


class Remembered(msgspec.Struct, frozen=True):
    """The notes on a shared notebook for the next start."""

    document: str
    name: str
    path: str
    may_write: bool
    base: dict[str, Any]


class LiveNotebook:
    """A shared notebook on this device.

    Parameters
    ----------
    memory
        File with the state in which both sides were last equal, for the next start.
    name, path
        Of the share; of the file, relative to the server's root.
    document
        The shared document.
    may_write
        Whether this device's changes are shared; otherwise they are undone.
    ran
        The mark of cells that were run here.
    is_apart
        Tells whether nobody else who shares the notebook is reached.
    """

    def __init__(
        self,
        memory: Path,
        *,
        name: str,
        path: str,
        document: Document,
        may_write: bool,
        files: NotebookFiles,
        live: Callable[[str], Any],
        ran: Callable[[], dict[str, Any]],
        is_apart: Callable[[], bool],
        log: logging.Logger,
    ) -> None:
        self._memory = KeptFile(memory, log)
        self._remembered: Notebook | None = None
        self.name, self.path = name, path
        self.may_write = may_write
        self._document = document
        self._files = files
        self._live = live
        self._ran = ran
        self._is_apart = is_apart
        self._renewed: set[Any] = set()  # cells that were made new since others were last reached
        self._log = log
        self._base: Notebook = EMPTY
        self._room: Any = None
        self._observed: Any = None
        self._left = False  # whether the live document was closed, and the file not read since
        self._saved = ""  # when the file was last changed before it was read
        self._before: Notebook = EMPTY  # what was there when the last turn began
        self._kept: Notebook = EMPTY  # what was read after the last writing
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
            self._base = without_trust(self._shared().get())
            await self._files.write(self.path, self._base)
        else:
            self._shared().set(without_trust(await self._read_file()))
            self._base = self._shared().get()
        self._before = self._base
        self._remember()
        self._task = asyncio.create_task(self._run(), name=f"notebook {self.name}")

    async def stop(self, *, for_ever: bool = False) -> None:
        """Stop; the file stays as it is.

        Parameters
        ----------
        for_ever
            Whether the notebook is not shared any more: nothing is noted for the next start.
        """
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        # A live document is perhaps not saved when the server stops. One that stays open saves itself, and would be
        # put back to what somebody else writes to the file.
        if self._room is not None and not for_ever:
            with contextlib.suppress(HTTPError, OSError):
                async with self._files.turn(self.path):
                    await self._files.write(self.path, self._base)
        self._leave()
        if for_ever:
            await self._memory.delete()
        else:
            self._remember()
            await self._memory.flush()

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
            if room is not None and not room.get().get("nbformat"):
                return  # it is still being loaded, perhaps from what it was long ago
            self._left = self._left or self._room is not None
            self._leave()
            self._room = room
            self._behind = True
            if room is not None:
                self._observed = room.ydoc.observe(lambda _: self._edited(room))
                self._recall(without_trust(room.get()), opened=True)
        behind, self._behind = self._behind, False
        try:
            if room is None:
                await self._settle_file(behind=behind)
            elif behind:
                self._exchange(room)
        except BaseException:
            self._behind = True
            raise

    async def _settle_file(self, *, behind: bool) -> None:
        if await self._files.changed(self.path) == self._saved and not behind:
            return
        async with self._files.turn(self.path):
            await self._exchange_with_file()

    async def _exchange_with_file(self) -> None:
        """Carry changes over between the file and the shared document."""
        found = await self._read_file()
        mine = without_trust(found)
        self._recall(mine, opened=False)
        merged = as_saved(self._merged(mine))
        self._base = self._before = mine
        if merged == mine:
            return
        if await self._files.changed(self.path) != self._saved:
            self._behind = True  # another program has just changed it: that comes first
            return
        await self._files.write(self.path, with_trust(merged, found))
        kept = without_trust(await self._read_file())
        if kept == merged:
            self._base = merged
        elif kept != self._kept:
            self._behind = True  # another program changed it at the same moment, and knew no more than `mine`
        self._kept = kept

    def _recall(self, mine: Notebook, *, opened: bool) -> None:
        """Find out what both were when they were last equal, from what the file has, or a live document just opened."""
        is_late = self._files.saved_late(self.path)
        if self._left:
            self._base = mine  # whatever was changed in the live document is shared already; its file may be older
            self._left = False
        elif is_late or (opened and mine["cells"] == self._before["cells"]):
            self._base = self._before  # whoever saved it knew no more, or it was read before the file was written

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
            found = room.get()
            mine = without_trust(found)
            merged = self._merged(mine)
            if merged != mine:
                put(with_trust(merged, found), room)
            self._base = merged
        except Exception:
            self._log.exception("The shared notebook %s is not up to date.", self.path)
        finally:
            self._busy = False

    def _merged(self, mine: Notebook) -> Notebook:
        shared = self._shared()
        if self.may_write:
            _name_apart(shared)
        theirs = merged = without_trust(shared.get())
        if self.may_write and mine != self._base:
            mine = with_their_changes(self._base, mark_runs(self._base, mine, self._ran()), theirs)
            merged = merge(self._base, mine, theirs)
            if merged != theirs:
                with shared.ydoc.transaction():
                    self._renew_changed(shared, theirs, merged)
                    put(merged, shared)
                merged = without_trust(shared.get())
                self._document.compact_if_due()
        return merged

    def _renew_changed(self, shared: YNotebook, theirs: Notebook, merged: Notebook) -> None:
        """Make the cells that are changed while nobody else is reached new ones.

        In a Yjs document a deletion wins over changes of what is deleted. Somebody may delete, apart, what is changed
        here: the changed cell then stays.
        """
        if not self._is_apart():
            self._renewed.clear()
            return
        before = {cell.get("id"): cell for cell in theirs["cells"]}
        after = {cell.get("id"): cell for cell in merged["cells"]}
        changed = {name for name in before.keys() & after.keys() if before[name] != after[name]} - self._renewed
        self._renewed |= changed
        for i in reversed(range(len(shared.ycells))):
            if shared.ycells[i].get("id") in changed:
                del shared.ycells[i]

    def _shared(self) -> YNotebook:
        return self._document.view(YNotebook)

    def _remember(self) -> None:
        if self._base != self._remembered:
            noted = Remembered(self._document.name, self.name, self.path, self.may_write, self._base)
            self._memory.write(msgspec.json.encode(noted))
            self._remembered = self._base

    def _leave(self) -> None:
        if self._room is not None and self._observed is not None:
            with contextlib.suppress(Exception):  # the room may be gone with its document
                self._room.ydoc.unobserve(self._observed)
        self._room = self._observed = None

    async def _read_file(self) -> Notebook:
        found, self._saved = await self._files.read(self.path)
        return found


def _name_apart(shared: YNotebook) -> None:
    """Give cells of one id, which was changed on two devices apart, different ids: so all of them are seen."""
    seen: set[Any] = set()
    for cell in shared.ycells:
        name = own = cell.get("id")
        number = 2
        while name in seen:
            name, number = f"{str(own)[:56]}-{number}", number + 1
        seen.add(name)
        if name != own:
            cell["id"] = name
