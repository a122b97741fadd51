"""The owner's context: folders that were added, kept up to date, and asked."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from ainet.api import context as api
from ainet.api.context import ContextFolder, ContextProblem, ContextState, FoundPassage, FoundPassages
from ainet.context.update import Update
from ainet.context.worker import ContextWorker
from ainet.errors import AinetError, NotFound, UsageError
from ainet.passages.version import PARSER
from ainet.storage.hybrid import HybridStorage

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence
    from concurrent.futures import Future

    from ainet.api.answers import Answers
    from ainet.engine.engine import Engine
    from ainet.engine.worker_pool import WorkerPool
    from ainet.storage.records import Folder, Label, Passage
    from ainet.timing import Timing

FOLDER = "context"
#: Files with problems that are told at once.
MOST_PROBLEMS = 100


class Progress:
    """How far the reading of a folder is."""

    def __init__(self) -> None:
        self.done = self.total = 0
        self.failed = ""
        self.is_reading = True


class Context:
    """Answers the owner's questions about files, which it looks through now and then.

    Nothing of it is loaded before a folder is added.

    Parameters
    ----------
    data_dir
        The node's data directory.
    engine, workers
        Where files are read.
    answers
        The registry of answers to the owner's verbs.
    log
        For what goes wrong unasked.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        engine: Engine,
        workers: WorkerPool,
        answers: Answers,
        log: logging.Logger,
        timing: Timing,
    ) -> None:
        self._data_dir, self._log, self._timing = data_dir.resolve(), log, timing
        self._folder = data_dir / FOLDER
        self._worker = ContextWorker(engine, workers, log, timing)
        self._storage: HybridStorage | None = None
        self._opening = asyncio.Lock()
        self._progress: dict[int, Progress] = {}
        self._look = asyncio.Event()
        self._stopping = False
        self._asked: Future[list[Passage]] | None = None
        self._looking: asyncio.Task[None] | None = None
        answers.add(api.context, self.state)
        answers.add(api.context_add, self.add)
        answers.add(api.context_remove, self.remove)
        answers.add(api.find, self.find)

    def start(self) -> None:
        """Look through the folders that were added before, if there are any."""
        if self._folder.exists():
            self._begin()

    async def stop(self) -> None:
        """End what is being done."""
        self._stopping = True
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
        self._worker.release()
        if self._storage is not None:
            await asyncio.to_thread(self._storage.close)

    # --- what the owner asks ---------------------------------------------------------------------

    async def state(self) -> ContextState:
        """Return what is known of which folders."""
        if not self._folder.exists():
            return ContextState(folders=[], size=0)
        storage = await self._open()
        return await asyncio.to_thread(self._state, storage)

    async def add(self, path: str, label: Label = "swarm") -> ContextState:
        """Let a folder, or a file, be known.

        Raises
        ------
        NotFound
            It is not there.
        UsageError
            It cannot be added: it is a part of one that was, or of the node's data, or such a one is a part of it.
        """
        whole = await asyncio.to_thread(_resolved, path)
        storage = await self._open()
        for folder in await asyncio.to_thread(storage.folders):
            other = Path(folder.path)
            if other != whole and (other in whole.parents or whole in other.parents):
                raise UsageError(f"{whole} and {other}, which was added before, are parts of each other. Remove one.")
        data_dir = self._data_dir
        if whole == data_dir or data_dir in whole.parents:
            raise UsageError(f"{whole} belongs to the node itself.")
        folder = await asyncio.to_thread(storage.add_folder, str(whole), label)
        self._progress[folder.id] = Progress()
        self._begin()
        return await self.state()

    async def remove(self, path: str) -> ContextState:
        """Forget a folder that was added, and all that was known of it; raises `NotFound`."""
        storage = await self._open()
        folder = await asyncio.to_thread(storage.folder, str(PurePath(path)))
        self._progress.pop(folder.id, None)
        await asyncio.to_thread(storage.remove_folder, folder.id)
        await asyncio.to_thread(storage.scrub)
        return await self.state()

    async def find(
        self, text: str, folder: str | None = None, kind: str | None = None, most: int = 10
    ) -> FoundPassages:
        """Return the passages that fit a question best.

        Raises
        ------
        UsageError
            Nothing was added yet.
        """
        if not self._folder.exists():
            raise UsageError("The node knows no files yet: `ainet context add PATH` lets it know a folder.")
        storage = await self._open()
        below = str(PurePath(folder)) if folder is not None else None
        return await asyncio.to_thread(_find, storage, text, below, kind, most)

    # --- keeping it up to date -------------------------------------------------------------------

    async def _open(self) -> HybridStorage:
        async with self._opening:
            if self._storage is None:
                self._storage = await asyncio.to_thread(HybridStorage, self._folder)
            return self._storage

    def _begin(self) -> None:
        """Look through the folders, soon."""
        self._look.set()
        if self._looking is None and not self._stopping:
            self._looking = asyncio.create_task(self._keep_looking(), name="context")

    async def _keep_looking(self) -> None:
        storage = await self._open()
        while True:
            self._look.clear()
            for folder in await asyncio.to_thread(storage.folders):
                progress = self._progress[folder.id] = Progress()
                try:
                    await self._update(storage, folder, progress)
                except OSError as exc:
                    progress.failed = f"cannot be looked through ({exc.strerror or exc})"
                except AinetError as exc:
                    progress.failed = exc.message
                    self._log.warning("%s was not looked through: %s", folder.path, exc.message)
                except Exception as exc:
                    progress.failed = f"was not looked through ({exc!r}); the log has the details"
                    self._log.exception("%s was not looked through.", folder.path)
                progress.is_reading = False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), self._timing.context_look)

    async def _update(self, storage: HybridStorage, folder: Folder, progress: Progress) -> None:
        loop = asyncio.get_running_loop()

        def parse(path: str, data: bytes) -> Sequence[Passage]:
            self._asked = asked = asyncio.run_coroutine_threadsafe(self._worker.parse(path, data), loop)
            if self._stopping:
                asked.cancel()
            return asked.result()

        def proceed(done: int, total: int) -> bool:
            progress.done, progress.total = done, total
            return not self._stopping and self._progress.get(folder.id) is progress

        update = Update(storage, folder, parser=PARSER, parse=parse, proceed=proceed)
        thread = asyncio.ensure_future(asyncio.to_thread(update.run))
        try:
            await asyncio.shield(thread)
        except asyncio.CancelledError:  # a thread cannot be: it ends with what it waits for
            if self._asked is not None:
                self._asked.cancel()
            await asyncio.gather(thread, return_exceptions=True)  # whatever it says: what was saved is whole
            raise

    def _state(self, storage: HybridStorage) -> ContextState:
        folders, problems = [], []
        for folder in storage.folders():
            sources = storage.sources(folder.id)
            failing = [source for source in sources.values() if source.problem]
            progress = self._progress.get(folder.id, Progress())
            problems += [
                ContextProblem(path=str(Path(folder.path) / source.path), problem=source.problem) for source in failing
            ]
            folders.append(
                ContextFolder(
                    path=folder.path,
                    label=folder.label,
                    files=len(sources) - len(failing),
                    passages=sum(source.passages for source in sources.values()),
                    problems=len(failing),
                    is_reading=progress.is_reading,
                    done=progress.done,
                    total=progress.total,
                    failed=progress.failed,
                )
            )
        size = sum(path.stat().st_size for path in self._folder.iterdir())
        return ContextState(folders=folders, size=size, problems=problems[:MOST_PROBLEMS])


def _resolved(path: str) -> Path:
    whole = Path(path)
    if not whole.is_absolute():
        raise UsageError(f"{path} is not a whole path.")
    if not whole.exists():
        raise NotFound(f"{path} is not there.")
    return whole.resolve()


def _find(storage: HybridStorage, text: str, below: str | None, kind: str | None, most: int) -> FoundPassages:
    found = storage.search(text, most, below=below, kind=kind)
    scores = {one.id: one.score for one in found}
    return FoundPassages(
        results=[
            FoundPassage(
                path=str(Path(one.folder) / one.path),
                cell=one.passage.cell,
                line=one.passage.first_line,
                end_line=one.passage.last_line,
                score=scores[one.id],
                text=one.passage.text,
                kind=one.passage.kind,
                name=one.passage.name,
            )
            for one in storage.passages(list(scores))
        ]
    )
