"""The owner's context: folders that were added, kept up to date, and asked."""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from ainet.api import context as api
from ainet.api.context import ContextCheck, ContextState, FoundPassage, FoundPassages
from ainet.context import graph, grounds
from ainet.context.citations import compared
from ainet.context.opened import Opened
from ainet.context.peers import ContextPeers
from ainet.context.places import Places
from ainet.context.remembered import REMEMBERED, NotebookMemory
from ainet.context.search import search
from ainet.context.state import folders_of, state_of
from ainet.errors import AinetError, NotFound, UsageError
from ainet.replication.replication import FEED, HEAD
from ainet.resources.work import NoteWork, unmetered
from ainet.signals import Signal
from ainet.storage.hybrid import HybridStorage

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Collection, Sequence

    from ainet.api.answers import Answers
    from ainet.api.generate import Citation
    from ainet.context.places import Place
    from ainet.context.retriever import Ranked
    from ainet.engine.engine import Engine
    from ainet.engine.worker_pool import WorkerPool
    from ainet.links.links import Links
    from ainet.storage.records import Label
    from ainet.swarm.feeds import Feeds
    from ainet.timing import Timing

FOLDER = "context"
#: Steps of a trace.
MOST_STEPS = 5


class Context:
    """Answers the owner's questions about files, of which it keeps track.

    Nothing of it is loaded before a folder is added, here or on another device of the owner's.

    Parameters
    ----------
    data_dir
        The node's data directory.
    better
        Returns the path of an embedding model, see `VectorActor`; it may raise `AinetError`, and read folders.
    disk
        Bytes that documents of other devices may take here.
    engine, workers
        Where files are read and vectors made.
    links, feeds
        To other devices.
    answers
        The registry of answers to the owner's verbs.
    log
        For what goes wrong unasked.
    note_work
        Takes note of vectors that are made, and of what is sent to other devices.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        better: Callable[[], str],
        disk: int,
        engine: Engine,
        workers: WorkerPool,
        links: Links,
        feeds: Feeds,
        answers: Answers,
        log: logging.Logger,
        note_work: NoteWork = unmetered,
        timing: Timing,
    ) -> None:
        self._data_dir, self._engine, self._workers = data_dir.resolve(), engine, workers
        self._log, self._timing, self._better, self._disk = log, timing, better, disk
        self._links, self._feeds, self._note_work, self._folder = links, feeds, note_work, data_dir / FOLDER
        self._opening, self._is_stopping = asyncio.Lock(), False
        self._opened: Opened | None = None
        self._beginning: asyncio.Task[None] | None = None
        #: Emitted after something has become unknown.
        self.removed: Signal[[]] = Signal("something was forgotten", log)
        #: Emitted after something has become known or unknown, and now and then while files are read.
        self.changed: Signal[[]] = Signal("something else is known than before", log)
        self._places = Places(links.identity)
        self._peers = ContextPeers(links, self._places, self._open_if_known, note_work)
        links.on_revoked(self._revoked)
        links.home.on_left(self._left)
        feeds.on_change(lambda _author, log: self.start() if log == FEED else None)
        NotebookMemory(self._open, self._folder.exists, answers)
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
        """Keep what is known up to date, if something is, or other devices know something."""
        if self._opened is None and self._beginning is None and not self._is_stopping and self._is_known():
            self._beginning = asyncio.create_task(self._begin(), name="context")

    async def stop(self) -> None:
        """End what is being done."""
        self._is_stopping = True
        if self._beginning is not None:
            await asyncio.gather(self._beginning, return_exceptions=True)
        if self._opened is not None:
            await self._opened.stop()

    async def kept(self) -> dict[str, int]:
        """Return the bytes of documents that are kept here for other devices, by their node ids."""
        if self._opened is None:
            return {}
        return await asyncio.to_thread(self._opened.storage.replicas.kept_bytes)

    # --- which files are known -------------------------------------------------------------------
    async def state(self) -> ContextState:
        """Return what is known of which folders."""
        opened = await self._open_if_known()
        return (
            ContextState(folders=[], size=0)
            if opened is None
            else await asyncio.to_thread(state_of, opened, self._places)
        )

    async def folders(self) -> list[api.ContextFolder]:
        """Return the folders that were added; see `state`."""
        opened = await self._open_if_known()
        return [] if opened is None else (await asyncio.to_thread(folders_of, opened, self._places))[0]

    async def add(self, path: str, label: Label | None = None, audience: Sequence[str] = ()) -> ContextState:
        """Let a folder, or a file, be known.

        Parameters
        ----------
        label
            Who may have it; None: who may have it already, or else the owner's devices.
        audience
            Names of the contacts that it is shared with.

        Raises
        ------
        NotFound
            It is not there, or a contact is not known.
        UsageError
            It cannot be added: it is a part of one that was, or of the node's data, or such a one is a part of it; or
            it is not said whom it is shared with.
        """
        if label is not None and (label == "shared") != bool(audience):
            raise UsageError("Say whom it is shared with: --label shared --with CONTACT.")
        contacts = [self._places.contact(name) for name in audience]
        whole = await asyncio.to_thread(_resolved, path)
        data_dir = self._data_dir
        if whole == data_dir or data_dir in whole.parents:
            raise UsageError(f"{whole} belongs to the node itself.")
        opened = await self._open()
        label = label or ("shared" if contacts else None)
        for folder in await asyncio.to_thread(opened.storage.folders):
            other = Path(folder.path)
            if other == whole and label is None:
                label, contacts = folder.label, await asyncio.to_thread(opened.storage.audience, folder.id)
            if other != whole and (other in whole.parents or whole in other.parents):
                raise UsageError(f"{whole} and {other}, which was added before, are parts of each other. Remove one.")
        folder = await asyncio.to_thread(opened.storage.add_folder, str(whole), label or "swarm", contacts)
        await asyncio.to_thread(opened.storage.know_again, folder.id)
        opened.replication.notice()
        opened.folders.look(folder.id)
        self.changed.emit()
        return await self.state()

    async def remove(self, path: str) -> ContextState:
        """Forget a folder that was added, and all that was known of it; raises `NotFound`."""
        opened = await self._open_known()
        folder = await asyncio.to_thread(opened.storage.folder, str(PurePath(path)))
        async with opened.folders.stand_still():
            opened.folders.leave(folder.id)
            await asyncio.to_thread(opened.storage.remove_folder, folder.id)
        await opened.leave_nothing()
        return await self.state()

    async def pause(self, on: bool = True) -> ContextState:
        """Look at no file and make no vectors until this is asked for again; or go on."""
        opened = await self._open_known()
        await opened.folders.pause(on)
        opened.vectors.pause(on)
        self.changed.emit()
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
        place = self._places.find(path)
        if place.device:
            name = self._places.name(place.device)
            raise UsageError(f"What {name} knows is forgotten there: ainet context forget {place.path}, on {name}.")
        opened = await self._open_known()
        async with opened.folders.stand_still():
            sources, elsewhere = await asyncio.to_thread(_meant, opened.storage, path, query)
            await asyncio.to_thread(opened.storage.forget, list(sources))
        if not sources and not elsewhere:
            raise NotFound(f"Nothing is known of {path}." if path else f"No file that is known says {query!r}.")
        await opened.leave_nothing()
        return api.Forgotten(
            paths=sorted(map(self._places.whole_name, sources.values())),
            elsewhere=sorted(self._places.whole_name(path) for path in elsewhere),
        )

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
        self, text: str, folder: str | None = None, kind: str | None = None, most: int = 10, alone: bool = False
    ) -> FoundPassages:
        """Return the passages that fit a question best.

        Parameters
        ----------
        folder
            A folder or file; ``DEVICE:PATH`` on another device, ``DEVICE:`` for all that it has. A contact is asked
            only where it is named.
        alone
            Whether no other device is asked.

        Raises
        ------
        UsageError
            Nothing was added yet; or a contact is to be asked, and nobody else.
        PeerUnreachable
            The contact is away.
        """
        place = self._places.find(folder)
        if place.is_contact and alone:
            raise UsageError(f"{self._places.name(place.device)} would have to be asked for that.")
        if place.is_contact:
            found = await self._peers.ask_contact(place.device, text, place.path, kind, most)
            if (known := await self._open_if_known()) is not None:  # it says how much each word tells
                found = await asyncio.to_thread(grounds.with_best_lines, known.storage, text, found)
            return FoundPassages(results=found)
        opened = await self._open_known()
        ranked = await search(opened, text, most, below=place.below, kind=kind)
        found = await asyncio.to_thread(
            grounds.with_best_lines, opened.storage, text, [self._shown(one) for one in ranked]
        )
        others, unasked = ([], []) if alone else await self._ask_others(opened, place, text, kind, most)
        if others:
            found = await asyncio.to_thread(grounds.merged, opened.storage, text, found, others, most)
        return FoundPassages(results=found, unasked=unasked)

    async def quote(
        self, text: str, folder: str | None = None, kind: str | None = None, most: int = 3, alone: bool = False
    ) -> api.PassagesFor:
        """Return the passages that answer a question, the best first: none, unless one covers half of what it says."""
        opened = await self._open()
        found = await self.find(text, folder, kind, most, alone)
        kept = await asyncio.to_thread(grounds.chosen, opened.storage, text, found.results)
        return api.PassagesFor(results=kept, note="" if kept else grounds.NOTHING, unasked=found.unasked)

    async def cite(self, question: str, answer: str, passages: Sequence[FoundPassage]) -> list[Citation]:
        """Return the sentences of an answer, each with the passage that says it."""
        opened = await self._open()
        similar = await opened.vectors.similarities(*compared(answer, [one.text for one in passages]))
        return await asyncio.to_thread(grounds.citations, opened.storage, question, answer, passages, similar)

    async def trace(self, name: str, folder: str | None = None, depth: int = 2) -> api.Trace:
        """Return what leads to something, and what it leads to; raises `NotFound`."""
        opened = await self._open_known()
        within = self._places.find(folder).below
        return await asyncio.to_thread(graph.trace, opened.storage, name, within=within, depth=min(depth, MOST_STEPS))

    async def known(self, names: Collection[str]) -> set[str]:
        """Return those of the files of which something is known; one of another device is called ``DEVICE:PATH``."""
        opened = await self._open_if_known()
        if opened is None or not names:
            return set()

        def known() -> set[str]:
            return set(names) & {
                # What was done in a notebook is called as the notebook.
                self._places.whole_name(folder.path if folder.origin == REMEMBERED else str(Path(folder.path) / path))
                for folder in opened.storage.folders(None)
                for path in opened.storage.sources(folder.id)
            }

        return await asyncio.to_thread(known)

    async def _ask_others(
        self, opened: Opened, place: Place, text: str, kind: str | None, most: int
    ) -> tuple[list[FoundPassage], list[str]]:
        """Ask the owner's devices that have what is not here; returns their passages, and who could not be asked."""
        if place.path and not place.device:
            return [], []
        kept = await asyncio.to_thread(opened.storage.replicas.kept)
        behind = await asyncio.to_thread(opened.replication.behind)
        lacking = sorted({*behind, *(device for device, one in kept.items() if one.whole < one.all)})
        meant = [device for device in lacking if place.device in ("", device)]
        return await self._peers.ask_members(meant, text, kind, most, {place.device: place.path})

    async def _open_known(self) -> Opened:
        opened = await self._open_if_known()
        if opened is None:
            raise UsageError("The node knows no files yet: `ainet context add PATH` lets it know a folder.")
        return opened

    # --- what is behind it -----------------------------------------------------------------------

    def _is_known(self) -> bool:
        members = (one.id for one in self._links.identity.roster.members)
        return self._folder.exists() or any(self._feeds.get(one, FEED, HEAD, int) for one in members)

    async def _begin(self) -> None:
        try:
            await self._open()
        except AinetError as exc:  # whoever asks hears it, too
            self._log.warning("What was known of files cannot be used: %s", exc.message)
        finally:
            self._beginning = None

    async def _open_if_known(self) -> Opened | None:
        return await self._open() if self._is_known() else None

    async def _open(self) -> Opened:
        async with self._opening:
            if self._is_stopping:
                raise UsageError("The node is stopping.")
            if self._opened is None:
                storage = await asyncio.to_thread(HybridStorage, self._folder)
                better, problem = "", ""
                try:
                    better = await asyncio.to_thread(self._better)
                except AinetError as exc:  # there is the quick model
                    problem = exc.message
                self._opened = Opened(
                    storage,
                    self._folder,
                    better=better,
                    problem=problem,
                    disk=self._disk,
                    engine=self._engine,
                    workers=self._workers,
                    links=self._links,
                    feeds=self._feeds,
                    removed=self.removed.emit,
                    changed=self.changed.emit,
                    log=self._log,
                    note_work=self._note_work,
                    timing=self._timing,
                )
            return self._opened

    def _revoked(self, node_id: str) -> None:
        """Share nothing more with a contact that was forgotten, and know nothing more of a member that was removed."""
        if self._opened is not None:
            self._opened.revoked(node_id)

    def _left(self, left: str | None) -> None:
        """Let the members of another swarm have nothing that was added for those of the one before."""
        if left is not None and self._folder.exists():
            storage = self._opened.storage if self._opened is not None else HybridStorage(self._folder)
            try:
                storage.replicas.withdraw()
            finally:
                if self._opened is None:
                    storage.close()
            self._log.warning("This device belongs to another swarm now: the folders that it knows are private.")
        if self._opened is not None:
            self._opened.revoked("")
        self.changed.emit()

    def _shown(self, one: Ranked) -> FoundPassage:
        passage = one.passage.passage
        device, folder = self._places.split(one.passage.folder)
        is_remembered = one.passage.folder.startswith(REMEMBERED)  # then the path is that of a cell
        return FoundPassage(
            device=self._places.name(device) if device else "",
            path=folder if is_remembered else str(Path(folder) / one.passage.path),
            cell=passage.cell,
            line=passage.first_line,
            end_line=passage.last_line,
            score=one.score,
            text=passage.text,
            kind=passage.kind,
            name=passage.name,
            reason=one.reason,
        )


def _resolved(path: str) -> Path:
    whole = Path(path)
    if not whole.is_absolute():
        raise UsageError(f"{path} is not a whole path.")
    if not whole.exists():
        raise NotFound(f"{path} is not there.")
    return whole.resolve()


def _meant(storage: HybridStorage, path: str | None, query: str | None) -> tuple[dict[int, str], list[str]]:
    """Return the sources in a path, or those that say something, with their whole paths; and the latter elsewhere."""
    if query is not None:
        said = storage.saying(query)
        here = {number: path for number, path in said.items() if path.startswith(("/", REMEMBERED))}
        return here, [path for number, path in said.items() if number not in here]
    return {
        source.id: str(Path(folder.path) / source.path)
        for folder in [*storage.folders(), *storage.folders(REMEMBERED)]
        for source in storage.sources(folder.id).values()
        if f"{Path(folder.path) / source.path}/".removeprefix(f"{REMEMBERED}:").startswith(f"{PurePath(path or '')}/")
    }, []
