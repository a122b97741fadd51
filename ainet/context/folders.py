"""The owner's folders: looked through when they are added, when something in them changes, and now and then."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ainet.context.left_out import IGNORE_FILES, why_left_out
from ainet.context.update import Update
from ainet.context.watch import Watch
from ainet.errors import AinetError
from ainet.passages.grammars import parser_of
from ainet.passages.version import PARSER

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncIterator, Callable, Collection, Sequence
    from concurrent.futures import Future

    from ainet.context.reader import Reader
    from ainet.errors import UsageError
    from ainet.storage.hybrid import HybridStorage
    from ainet.storage.records import Folder, Passage
    from ainet.timing import Timing

#: The note in the storage that nothing is looked at.
PAUSED = "paused"
#: Where more folders have changes, all of it is looked through.
FEW_FOLDERS = 50
#: A look is followed by a rest of this many times its length, up to seconds.
REST, LONGEST_REST = 3, 10


class Progress:
    """How far the reading of a folder is."""

    def __init__(self) -> None:
        self.done = self.total = 0
        self.failed = ""
        self.is_reading = True


class Folders:
    """Keeps what is known of the folders up to date.

    Parameters
    ----------
    storage
        What is known.
    reader
        Reads files.
    changed
        Called after something has become known.
    removed
        Called after something has become unknown.
    progressed
        Called now and then while files are read, and at the end.
    """

    def __init__(
        self,
        storage: HybridStorage,
        reader: Reader,
        *,
        changed: Callable[[], None],
        removed: Callable[[], None],
        progressed: Callable[[], object] = lambda: None,
        log: logging.Logger,
        timing: Timing,
    ) -> None:
        self._storage, self._reader, self._changed, self._removed = storage, reader, changed, removed
        self._progressed, self._log, self._timing = progressed, log, timing
        self._watch = Watch(log)
        self._progress: dict[int, Progress] = {}
        self._seen: dict[int, list[str]] = {}
        self._look = asyncio.Event()
        self._is_stopping = False
        self._updating, self._holds = asyncio.Lock(), 0
        self._asked: Future[list[list[Passage] | UsageError]] | None = None
        self.is_paused = storage.setting(PAUSED) is not None
        self._looking = asyncio.create_task(self._keep_looking(), name="context")

    @property
    def unwatched(self) -> str:
        """Why changes are found late, in words; empty where they are found at once."""
        return self._watch.failed

    def progress(self, folder: int) -> Progress:
        """Return how far the reading of a folder is."""
        return self._progress.get(folder) or Progress()

    def look(self, folder: int | None = None) -> None:
        """Look through all folders, soon; `folder` is one that is new."""
        if folder is not None:
            self._progress[folder] = Progress()
        self._look.set()

    def leave(self, folder: int) -> None:
        """End what is done in a folder."""
        self._progress.pop(folder, None)
        self._seen.pop(folder, None)

    @contextlib.asynccontextmanager
    async def stand_still(self) -> AsyncIterator[None]:
        """Have nothing looked at meanwhile: what is forgotten then is not read again by a look that has begun."""
        self._holds += 1
        try:
            async with self._updating:
                yield
        finally:
            self._holds -= 1
            self._look.set()

    async def pause(self, pause: bool) -> None:
        """Look at nothing, or go on; this outlasts the node."""
        self.is_paused = pause
        await asyncio.to_thread(self._storage.note_setting if pause else self._storage.drop_setting, PAUSED)
        self._look.set()

    async def stop(self) -> None:
        """End what is being done."""
        self._is_stopping = True
        self._looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._looking
        await self._watch.stop()

    async def _keep_looking(self) -> None:
        while True:
            self._look.clear()
            if not self.is_paused:
                await self._look_through()
                # What has changed before everything was watched was not told.
                if await self._watch.watch(self._folders()) and not self._watch.failed:
                    await self._look_through()
            elif self._watch.folders:
                await self._watch.stop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.context_look):
                    await self._until_something_is_due()

    def _folders(self) -> set[str]:
        return {folder for folders in self._seen.values() for folder in folders}

    async def _until_something_is_due(self) -> None:
        """Return when all of it is to be looked through; look at what changes meanwhile."""
        due = asyncio.ensure_future(self._look.wait())
        news = asyncio.ensure_future(self._watch.changes())
        try:
            while True:
                await asyncio.wait({due, news}, return_when=asyncio.FIRST_COMPLETED)
                if due.done():
                    return
                changes = news.result()
                news = asyncio.ensure_future(self._watch.changes())
                begun = time.monotonic()
                if not await self._look_at(changes):
                    return
                # Files that change all the time, such as logs, get a part of the time only.
                await asyncio.wait({due}, timeout=min(REST * (time.monotonic() - begun), LONGEST_REST))
        finally:
            due.cancel()
            news.cancel()

    async def _look_at(self, changes: set[str]) -> bool:
        """Look at files that have changed; False where that takes a look through everything."""
        parents: dict[int, set[str]] = {}
        folders = {folder.id: folder for folder in await asyncio.to_thread(self._storage.folders)}
        for path in changes:
            name, is_folder = Path(path).name, await asyncio.to_thread(_is_folder, path)
            if why_left_out(name, is_folder=is_folder):
                continue
            if is_folder or path in self._watch.folders or name in IGNORE_FILES:
                return False  # a folder has come or gone, or other files are left out now
            parent = str(Path(path).parent)
            for number, folder in folders.items():
                if parent == folder.path or parent.startswith(f"{folder.path}/"):
                    parents.setdefault(number, set()).add(parent[len(folder.path) + 1 :])
                elif path == folder.path:
                    parents.setdefault(number, set()).add("")
        if sum(map(len, parents.values())) > FEW_FOLDERS:
            return False
        for number, only in parents.items():
            await self._update(folders[number], self._progress.setdefault(number, Progress()), only)
        return True

    async def _look_through(self) -> None:
        for folder in await asyncio.to_thread(self._storage.folders):
            progress = self._progress[folder.id] = Progress()
            await self._update(folder, progress)
        known = {folder.id for folder in await asyncio.to_thread(self._storage.folders)}
        for number in set(self._seen) - known:
            self.leave(number)

    async def _update(self, folder: Folder, progress: Progress, only: Collection[str] | None = None) -> None:
        try:
            async with self._updating:
                await self._try(folder, progress, only)
            progress.failed = ""
        except OSError as exc:
            progress.failed = f"cannot be looked through ({exc.strerror or exc})"
        except AinetError as exc:
            progress.failed = exc.message
            self._log.warning("%s was not looked through: %s", folder.path, exc.message)
        except Exception as exc:
            progress.failed = f"was not looked through ({exc!r}); the log has the details"
            self._log.exception("%s was not looked through.", folder.path)
        progress.is_reading = False
        self._progressed()

    async def _try(self, folder: Folder, progress: Progress, only: Collection[str] | None) -> None:
        loop = asyncio.get_running_loop()
        told = time.monotonic()

        def parse(files: Sequence[tuple[str, bytes]]) -> Sequence[Sequence[Passage] | UsageError]:
            self._asked = asked = asyncio.run_coroutine_threadsafe(self._reader.parse(files), loop)
            if self._is_stopping:
                asked.cancel()
            return asked.result()

        def proceed(done: int, total: int) -> bool:
            nonlocal told
            progress.done, progress.total = done, total
            if time.monotonic() - told > self._timing.context_told:
                told = time.monotonic()
                loop.call_soon_threadsafe(self._changed)
                loop.call_soon_threadsafe(self._progressed)
            is_wanted = self._progress.get(folder.id) is progress
            return is_wanted and not (self._is_stopping or self.is_paused or self._holds)

        is_left_out = await asyncio.to_thread(self._storage.forgotten, folder.id)
        update = Update(self._storage, folder, parser=_parser_of, parse=parse, proceed=proceed, is_left_out=is_left_out)
        thread = asyncio.ensure_future(asyncio.to_thread(update.run, only))
        try:
            updated = await asyncio.shield(thread)
        except asyncio.CancelledError:  # a thread cannot be: it ends with what it waits for
            if self._asked is not None:
                self._asked.cancel()
            await asyncio.gather(thread, return_exceptions=True)  # whatever it says: what was saved is whole
            raise
        if only is None:
            self._seen[folder.id] = update.folders
        if updated.gone:
            self._removed()
        elif updated.read or updated.moved:
            self._changed()


def _parser_of(path: str) -> str:
    return parser_of(path, PARSER)


def _is_folder(path: str) -> bool:
    return Path(path).is_dir() and not Path(path).is_symlink()
