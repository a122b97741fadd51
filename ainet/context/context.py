"""The owner's context: folders that were added, kept up to date, and asked."""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from ainet.api import context as api
from ainet.api.context import (
    ContextCheck,
    ContextFolder,
    ContextProblem,
    ContextState,
    ContextVectorState,
    FoundPassage,
    FoundPassages,
)
from ainet.context import graph, grounds
from ainet.context.folders import Folders, Progress
from ainet.context.reader import Reader
from ainet.context.relation_question import relation_question
from ainet.context.retriever import DEPTH, Retriever, weight_of
from ainet.context.vectors import FOLDER as VECTORS
from ainet.context.vectors import ContextVectors, Nearest
from ainet.errors import AinetError, NotFound, UsageError
from ainet.storage.hybrid import HybridStorage

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence

    from ainet.api.answers import Answers
    from ainet.api.generate import Citation
    from ainet.context.retriever import Ranked
    from ainet.engine.engine import Engine
    from ainet.engine.worker_pool import WorkerPool
    from ainet.storage.records import Label
    from ainet.timing import Timing

FOLDER = "context"
#: Files with problems that are told at once.
MOST_PROBLEMS = 100
#: Of up to this number of passages that are allowed, each is named in a search for vectors; of more, the nearest ones
#: of all are filtered.
MOST_NAMED, FILTERED = 2000, 1000
#: Steps of a trace.
MOST_STEPS = 5
#: How often the disk is asked to be free of what was removed, while somebody reads it.
SCRUBS = 5


class Context:
    """Answers the owner's questions about files, of which it keeps track.

    Nothing of it is loaded before a folder is added.

    Parameters
    ----------
    data_dir
        The node's data directory.
    better
        Path of an embedding model; see `VectorActor`.
    engine, workers
        Where files are read and vectors made.
    answers
        The registry of answers to the owner's verbs.
    log
        For what goes wrong unasked.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        better: str,
        engine: Engine,
        workers: WorkerPool,
        answers: Answers,
        log: logging.Logger,
        timing: Timing,
    ) -> None:
        self._data_dir, self._engine, self._workers = data_dir.resolve(), engine, workers
        self._log, self._timing, self._better = log, timing, better
        self._folder = data_dir / FOLDER
        self._opening = asyncio.Lock()
        self._opened: _Opened | None = None
        self._is_stopping = False
        self._beginning: asyncio.Task[None] | None = None
        answers.add(api.context, self.state)
        answers.add(api.context_add, self.add)
        answers.add(api.context_remove, self.remove)
        answers.add(api.context_pause, self.pause)
        answers.add(api.context_forget, self.forget)
        answers.add(api.context_check, self.check)
        answers.add(api.context_rebuild, self.rebuild)
        answers.add(api.find, self.find)
        answers.add(api.trace, self.trace)
        answers.add(api.quote, self.quote)

    def start(self) -> None:
        """Look through the folders that were added before, if there are any."""
        if self._folder.exists():
            self._beginning = asyncio.create_task(self._begin(), name="context")

    async def stop(self) -> None:
        """End what is being done."""
        self._is_stopping = True
        if self._beginning is not None:
            await asyncio.gather(self._beginning, return_exceptions=True)
        if self._opened is not None:
            await self._opened.stop()

    # --- which files are known -------------------------------------------------------------------

    async def state(self) -> ContextState:
        """Return what is known of which folders."""
        if not self._folder.exists():
            return ContextState(folders=[], size=0)
        opened = await self._open()
        return await asyncio.to_thread(self._state, opened)

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
        data_dir = self._data_dir
        if whole == data_dir or data_dir in whole.parents:
            raise UsageError(f"{whole} belongs to the node itself.")
        opened = await self._open()
        for folder in await asyncio.to_thread(opened.storage.folders):
            other = Path(folder.path)
            if other != whole and (other in whole.parents or whole in other.parents):
                raise UsageError(f"{whole} and {other}, which was added before, are parts of each other. Remove one.")
        folder = await asyncio.to_thread(opened.storage.add_folder, str(whole), label)
        await asyncio.to_thread(opened.storage.know_again, folder.id)
        opened.folders.look(folder.id)
        return await self.state()

    async def remove(self, path: str) -> ContextState:
        """Forget a folder that was added, and all that was known of it; raises `NotFound`."""
        opened = await self._open_known()
        folder = await asyncio.to_thread(opened.storage.folder, str(PurePath(path)))
        async with opened.folders.stand_still():
            opened.folders.leave(folder.id)
            await asyncio.to_thread(opened.storage.remove_folder, folder.id)
        await self._leave_nothing(opened)
        return await self.state()

    async def pause(self, on: bool = True) -> ContextState:
        """Look at no file and make no vectors until this is asked for again; or go on."""
        opened = await self._open_known()
        await opened.folders.pause(on)
        opened.vectors.pause(on)
        return await self.state()

    async def forget(self, path: str | None = None, query: str | None = None) -> api.Forgotten:
        """Forget files, which are not known again until their folder is added once more.

        Parameters
        ----------
        path
            A file, or a folder in one that was added.
        query
            Or all files in which these words stand, in this order.

        Raises
        ------
        UsageError
            Neither is given, or both.
        NotFound
            No file that is known is meant.
        """
        if (path is None) == (query is None):
            raise UsageError("Name what to forget: a path, or --query with words that stand in it.")
        opened = await self._open_known()
        async with opened.folders.stand_still():
            sources = await asyncio.to_thread(_meant, opened.storage, path, query)
            await asyncio.to_thread(opened.storage.forget, list(sources))
        if not sources:
            raise NotFound(f"Nothing is known of {path}." if path else f"No file that is known says {query!r}.")
        await self._leave_nothing(opened)
        return api.Forgotten(paths=sorted(sources.values()))

    async def check(self) -> ContextCheck:
        """Compare everything that is kept with everything else."""
        opened = await self._open_known()
        found = await asyncio.to_thread(opened.storage.check)
        return ContextCheck(problems=[*found, *await opened.vectors.check()])

    async def rebuild(self) -> ContextState:
        """Make the index of words, and all vectors, anew."""
        opened = await self._open_known()
        await asyncio.to_thread(opened.storage.rebuild)
        await opened.vectors.rebuild()
        return await self.state()

    # --- what is asked ---------------------------------------------------------------------------

    async def find(
        self, text: str, folder: str | None = None, kind: str | None = None, most: int = 10
    ) -> FoundPassages:
        """Return the passages that fit a question best.

        Raises
        ------
        UsageError
            Nothing was added yet.
        """
        below = str(PurePath(folder)) if folder is not None else None
        found = [_shown(one) for one in await self.retrieve(text, most, below, kind)]
        opened = await self._open_known()
        return FoundPassages(results=await asyncio.to_thread(grounds.with_best_lines, opened.storage, text, found))

    async def quote(
        self, text: str, folder: str | None = None, kind: str | None = None, most: int = 3
    ) -> api.PassagesFor:
        """Return the passages that answer a question, the best first: none, unless one covers half of what it says."""
        opened = await self._open_known()
        found = (await self.find(text, folder, kind, most)).results
        kept = await asyncio.to_thread(grounds.chosen, opened.storage, text, found)
        return api.PassagesFor(results=kept, note="" if kept else grounds.NOTHING)

    async def cite(self, question: str, answer: str, passages: Sequence[FoundPassage]) -> list[Citation]:
        """Return the sentences of an answer, each with the passage that says it."""
        opened = await self._open_known()
        return await asyncio.to_thread(grounds.citations, opened.storage, question, answer, passages)

    async def trace(self, name: str, folder: str | None = None, depth: int = 2) -> api.Trace:
        """Return what leads to something, and what it leads to; raises `NotFound`."""
        opened = await self._open_known()
        below = str(PurePath(folder)) if folder is not None else None
        return await asyncio.to_thread(graph.trace, opened.storage, name, within=below, depth=min(depth, MOST_STEPS))

    async def retrieve(self, question: str, n: int, below: str | None = None, kind: str | None = None) -> list[Ranked]:
        """Return the `n` passages that fit a question best; raises `UsageError` where nothing was added yet."""
        opened = await self._open_known()
        near = Nearest([], is_static=True)
        if weight_of(question) and relation_question(question) is None:
            near = await self._near(opened, question, below, kind)
        return await asyncio.to_thread(
            Retriever(opened.storage, is_static=near.is_static).find,
            question,
            n,
            vectors=near.found,
            below=below,
            kind=kind,
        )

    async def _open_known(self) -> _Opened:
        if not self._folder.exists():
            raise UsageError("The node knows no files yet: `ainet context add PATH` lets it know a folder.")
        return await self._open()

    async def _near(self, opened: _Opened, question: str, below: str | None, kind: str | None) -> Nearest:
        if below is None and kind is None:
            return await opened.vectors.search(question, DEPTH)
        allowed = await asyncio.to_thread(opened.storage.all_among, below=below, kind=kind, most=MOST_NAMED)
        if len(allowed) < MOST_NAMED:
            return await opened.vectors.search(question, DEPTH, among=allowed)
        near = await opened.vectors.search(question, FILTERED)
        numbers = [one.id for one in near.found]
        kept = set(await asyncio.to_thread(opened.storage.among, numbers, below=below, kind=kind))
        return Nearest([one for one in near.found if one.id in kept][:DEPTH], near.is_static)

    # --- what is behind it -----------------------------------------------------------------------

    async def _begin(self) -> None:
        try:
            await self._open()
        except AinetError as exc:  # whoever asks hears it, too
            self._log.warning("What was known of files cannot be used: %s", exc.message)

    async def _open(self) -> _Opened:
        async with self._opening:
            if self._is_stopping:
                raise UsageError("The node is stopping.")
            if self._opened is None:
                storage = await asyncio.to_thread(HybridStorage, self._folder)
                self._opened = _Opened(
                    storage,
                    self._folder / VECTORS,
                    self._better,
                    engine=self._engine,
                    workers=self._workers,
                    log=self._log,
                    timing=self._timing,
                )
            return self._opened

    async def _leave_nothing(self, opened: _Opened) -> None:
        """Have what was removed gone from the disk."""
        opened.vectors.notice()
        for _ in range(SCRUBS):
            if await asyncio.to_thread(opened.storage.scrub):
                return
            await asyncio.sleep(self._timing.context_again)
        self._log.warning("What was removed is still in the log of %s: somebody reads it.", self._folder)

    def _state(self, opened: _Opened) -> ContextState:
        folders, problems = [], []
        for folder in opened.storage.folders():
            sources = opened.storage.sources(folder.id)
            failing = [source for source in sources.values() if source.problem]
            progress: Progress = opened.folders.progress(folder.id)
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
                    is_reading=progress.is_reading and not opened.folders.is_paused,
                    done=progress.done,
                    total=progress.total,
                    failed=progress.failed,
                )
            )
        return ContextState(
            folders=folders,
            size=sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file()),
            problems=problems[:MOST_PROBLEMS],
            is_paused=opened.folders.is_paused,
            unwatched=opened.folders.unwatched,
            vectors=[
                ContextVectorState(name=one.name, left=one.left, owed=one.owed) for one in opened.storage.indexes()
            ],
            vectors_failed=opened.vectors.failed,
        )


class _Opened:
    """What there is once something was added."""

    def __init__(
        self,
        storage: HybridStorage,
        folder: Path,
        better: str,
        *,
        engine: Engine,
        workers: WorkerPool,
        log: logging.Logger,
        timing: Timing,
    ) -> None:
        self.storage = storage
        self.reader = Reader(engine, workers, log, timing)
        self.vectors = ContextVectors(storage, folder, better, engine=engine, workers=workers, log=log, timing=timing)
        self.folders = Folders(storage, self.reader, self.vectors.notice, log=log, timing=timing)
        self.vectors.pause(self.folders.is_paused)

    async def stop(self) -> None:
        await self.folders.stop()
        await self.vectors.stop()
        await self.reader.stop()
        await asyncio.to_thread(self.storage.close)


def _resolved(path: str) -> Path:
    whole = Path(path)
    if not whole.is_absolute():
        raise UsageError(f"{path} is not a whole path.")
    if not whole.exists():
        raise NotFound(f"{path} is not there.")
    return whole.resolve()


def _meant(storage: HybridStorage, path: str | None, query: str | None) -> dict[int, str]:
    """Return the sources in a file or folder, or those that say something, with their whole paths."""
    if query is not None:
        return storage.saying(query)
    return {
        source.id: str(Path(folder.path) / source.path)
        for folder in storage.folders()
        for source in storage.sources(folder.id).values()
        if f"{Path(folder.path) / source.path}/".startswith(f"{PurePath(path or '')}/")
    }


def _shown(one: Ranked) -> FoundPassage:
    passage = one.passage.passage
    return FoundPassage(
        path=str(Path(one.passage.folder) / one.passage.path),
        cell=passage.cell,
        line=passage.first_line,
        end_line=passage.last_line,
        score=one.score,
        text=passage.text,
        kind=passage.kind,
        name=passage.name,
        reason=one.reason,
    )
