"""The vectors of passages: made in a worker while it has nothing better to do, asked there, and written anew."""

from __future__ import annotations

import array
import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ainet.engine.leased_actor import LeasedActor, WorkerLost
from ainet.errors import AinetError, NotEnough, Refused
from ainet.resources.work import NoteWork, Work, unmetered
from ainet.storage.records import Found
from ainet.vectors.actor import VectorActor

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from ainet.engine.engine import Engine
    from ainet.engine.worker_pool import WorkerPool
    from ainet.replication.shared_vectors import SharedVectors
    from ainet.storage.hybrid import HybridStorage
    from ainet.storage.records import VectorIndex
    from ainet.timing import Timing

T = TypeVar("T")
#: Passages whose vectors are made at once, of the quick model and of the better one.
BATCHES = (256, 16)
#: How often a passage is tried that ends the process which makes its vector.
TRIES = 3
#: The better model answers where it does not know this part of the passages, at most.
UNKNOWN = 0.05
#: Where this number, or this part, of vectors is owed, the table is written anew although nothing was forgotten on
#: purpose: files that change leave the vectors of what they said before.
MANY_OWED, PART_OWED = 1000, 0.1


class Nearest(NamedTuple):
    """The passages nearest to a question, and whether a static model says so, which knows less."""

    found: list[Found]
    is_static: bool


class ContextVectors:
    """Keeps the vectors of all passages.

    Parameters
    ----------
    storage
        Says which passages there are, and which of them have vectors.
    folder
        Where the tables lie.
    better
        Path of an embedding model; see `VectorActor`.
    problem
        Why there is none, where one was wished.
    shared
        The owner's other devices, which may have made a vector before.
    engine, workers
        Where vectors are made.
    note_work
        Takes note of it.
    """

    def __init__(
        self,
        storage: HybridStorage,
        folder: Path,
        better: str,
        *,
        problem: str = "",
        shared: SharedVectors,
        engine: Engine,
        workers: WorkerPool,
        log: logging.Logger,
        timing: Timing,
        note_work: NoteWork = unmetered,
        leased: type[LeasedActor] = LeasedActor,
    ) -> None:
        self._storage, self._shared, self._log, self._timing = storage, shared, log, timing
        self._note_work = note_work
        self._actor = leased(
            VectorActor,
            str(folder),
            better,
            engine=engine,
            workers=workers,
            log=log,
            timing=timing,
            idle=timing.vectors_idle,
            retire=True,
        )
        self._wanted, self._is_paused = asyncio.Event(), False
        self._warming: asyncio.Task[None] | None = None
        #: How often the worker ended at a passage, and how many are tried one by one after such an end.
        self._lost: Counter[int] = Counter()
        self._careful = 0
        self._models: list[tuple[str, str, int]] = []
        self._problem, self._missing = "", problem
        self._working = asyncio.create_task(self._work(), name="vectors")
        #: Why no vectors are made, in words; empty where they are.
        self.failed = ""

    def notice(self) -> None:
        """Look for passages that need vectors, and for vectors whose passages are gone."""
        self._wanted.set()

    def pause(self, pause: bool) -> None:
        """Make no vectors, or go on."""
        self._is_paused = pause
        self._wanted.set()

    async def search(self, question: str, n: int, among: Sequence[int] | None = None) -> Nearest:
        """Return the passages nearest to a question; none where vectors cannot be asked within a moment."""
        try:
            return await self._asked(lambda: self._search(question, n, among))
        except (TimeoutError, WorkerLost, NotEnough) as exc:
            self._log.info("Vectors could not be asked: %r.", exc)
        except AinetError as exc:
            await self._make_anew(exc)
        return Nearest([], is_static=True)

    async def similarities(self, texts: Sequence[str], others: Sequence[str]) -> list[list[float]] | None:
        """Return how similar each text is to each of the others (-1 to 1); None where that cannot be asked in a moment.

        It is the quick model that says so: there may be hundreds of them.
        """
        try:
            return await self._asked(lambda: self._compare(texts, others))
        except (TimeoutError, WorkerLost, AinetError) as exc:
            self._log.info("Sentences could not be compared: %r.", exc)
            return None

    async def read(self, index: VectorIndex, passages: Sequence[int]) -> dict[int, bytes]:
        """Return the vectors of these passages that are here, as 32-bit floats; none where they cannot be read now."""
        try:
            found, data = await self._call("read", index.table, _packed(passages))
        except (TimeoutError, WorkerLost, AinetError) as exc:
            self._log.info("Vectors could not be read: %r.", exc)
            return {}
        size = 4 * index.dimensions
        return {number: data[i * size : (i + 1) * size] for i, number in enumerate(found)}

    async def check(self) -> list[str]:
        """Compare the tables with what is noted of them; returns what does not agree, in sentences."""
        found = []
        for one in await self._indexes():
            index, should = await asyncio.to_thread(self._storage.embedded, one.id)
            there = array.array("q")
            there.frombytes(await self._call("passages", index.table))
            missing, extra = len(set(should) - set(there)), len(set(there) - set(should))
            if missing:
                found.append(f"{missing} passages should have vectors of {index.name}, and have none.")
            if extra > index.owed + index.left:
                found.append(
                    f"{extra} vectors of {index.name} are of passages that are gone; {index.owed} are expected to be."
                )
        return found

    async def rebuild(self) -> None:
        """Make all vectors anew."""
        for index in await asyncio.to_thread(self._storage.indexes):
            await asyncio.to_thread(self._storage.reset_index, index.id)
        self.notice()

    async def stop(self) -> None:
        """End what is being done."""
        tasks = [one for one in (self._working, self._warming) if one is not None]
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._actor.stop()

    async def _work(self) -> None:
        self.notice()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                if not self._is_paused:
                    await self._embed()
                await self._take_away()
                self.failed = self._problem
            except (TimeoutError, WorkerLost) as exc:
                self._log.info("Vectors are not made now: %r.", exc)
                await self._again()
            except NotEnough as exc:
                self.failed = exc.message
                await self._again()
            except AinetError as exc:
                self.failed = exc.message
                await self._make_anew(exc)
                await self._again()
            except Exception:
                self._log.exception("Vectors were not made.")
                await self._again()

    async def _embed(self) -> None:
        """Make the vectors that are missing: those of the quick model first, also of what comes meanwhile."""
        if not await asyncio.to_thread(self._storage.needs_vectors):
            return
        indexes = await self._indexes()
        made: set[str] = set()
        while not self._is_paused:
            for index, batch in zip(indexes, BATCHES, strict=False):
                n = 1 if self._careful else batch
                passages = await asyncio.to_thread(self._storage.next_unembedded, index.id, n)
                if passages:
                    break
            else:
                break
            table = await self._table(index)
            if index is not indexes[0] and not self._careful and await self._take_over(index, table):
                made.add(table)
                continue
            numbers, texts = [one.id for one in passages], [one.text for one in passages]
            try:
                tokens, seconds = await self._call("add", index.model, table, _packed(numbers), texts)
                self._note_work(Work("vectors", model=index.name, prompt=tokens, seconds=seconds))
            except WorkerLost:
                self._careful = max(self._careful, len(numbers))  # one of them may have ended it
                self._lost.update(numbers[:1])
                if len(numbers) > 1 or self._lost[numbers[0]] < TRIES:
                    raise
                self._log.warning("Passage %d gets no vector: it ends the process that makes it.", numbers[0])
            self._careful = max(self._careful - len(numbers), 0)
            await asyncio.to_thread(self._storage.note_embedded, index.id, numbers)
            made.add(table)
            if await asyncio.to_thread(self._storage.is_owed_urgently):
                await self._take_away()  # what was forgotten meanwhile does not wait for hours of work
        for table in made:
            await self._call("settle", table)
        # A model that is not there any more has been replaced by then.
        for index in await asyncio.to_thread(self._storage.indexes):
            if not self._problem and index.model not in {one.model for one in indexes}:
                await asyncio.to_thread(self._storage.drop_index, index.id)
                await self._keep_only()

    async def _take_over(self, index: VectorIndex, table: str) -> bool:
        """Take those of the next vectors that other devices have made; whether there were some."""
        passages = await asyncio.to_thread(self._storage.next_unembedded, index.id, self._shared.most(index.dimensions))
        found = await self._shared.ask(index, [one.id for one in passages])
        if found:
            try:
                await self._call("put", table, _packed(list(found)), b"".join(found.values()))
            except Refused as exc:
                self._log.warning("%s They are made here.", exc.message)
                return False
            await asyncio.to_thread(self._storage.note_embedded, index.id, list(found))
        return bool(found)

    async def _take_away(self) -> None:
        """Write tables anew in which there are vectors of passages that are gone."""
        for index in await asyncio.to_thread(self._storage.indexes):
            if not index.owed:
                continue
            if not index.is_urgent:
                _, there = await asyncio.to_thread(self._storage.embedded, index.id)
                if index.owed < min(MANY_OWED, PART_OWED * len(there)):
                    continue
            found, keep = await asyncio.to_thread(self._storage.embedded, index.id)
            await self._call("rewrite", found.table, found.next_table, _packed(keep))
            await asyncio.to_thread(self._storage.note_rewritten, found.id)
            await self._keep_only()
            await asyncio.to_thread(self._storage.note_paid, found)

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return an answer that somebody waits for."""
        async with asyncio.timeout(self._timing.vectors_asked):
            try:
                return await ask()
            except WorkerLost:  # it may have ended long ago, unasked
                return await ask()

    async def _compare(self, texts: Sequence[str], others: Sequence[str]) -> list[list[float]]:
        await self._be_ready()
        found: list[list[float]] = await self._call("similarities", texts, others)
        return found

    async def _search(self, question: str, n: int, among: Sequence[int] | None) -> Nearest:
        await self._be_ready()
        indexes = await self._indexes()
        size = await asyncio.to_thread(self._storage.count) if indexes[-1].left else 0
        # The best one that knows nearly all.
        index = next((one for one in reversed(indexes) if one.left <= UNKNOWN * size), indexes[0])
        numbers = _packed(among) if among is not None else None
        found, near = await self._call("search", index.model, index.table, question, n, numbers)
        return Nearest(
            [Found(passage, similarity) for passage, similarity in zip(found, near, strict=True)],
            is_static=index is indexes[0],
        )

    async def _be_ready(self) -> None:
        """Have the worker; who does not wait for it any longer does not end its start."""
        if not self._actor.is_ready:
            if self._warming is None or self._warming.done():
                self._warming = asyncio.create_task(self._start(), name="vectors")
            await asyncio.shield(self._warming)

    async def _start(self) -> None:
        await self._ask_models()
        await self._indexes()

    async def _ask_models(self) -> None:
        self._models, problem = await self._call("models")
        self._problem = self._missing or problem

    async def _indexes(self) -> list[VectorIndex]:
        """Return the indexes of the actor's models, the best one last."""
        if not self._models:
            await self._ask_models()
        known = {one.model: one for one in await asyncio.to_thread(self._storage.indexes)}
        found = []
        for model, name, dimensions in self._models:
            index = known.get(model)
            if index is None:
                index = await asyncio.to_thread(self._storage.open_index, model, name, dimensions)
                self.notice()
            found.append(index)
        return found

    async def _table(self, index: VectorIndex) -> str:
        """Return the index's table of now."""
        return next(one.table for one in await asyncio.to_thread(self._storage.indexes) if one.id == index.id)

    async def _keep_only(self) -> None:
        await self._call("keep_only", [one.table for one in await asyncio.to_thread(self._storage.indexes)])

    async def _make_anew(self, error: AinetError) -> None:
        """Have all vectors made anew: their table cannot be used."""
        if not self._models:
            return  # no model, no table
        self._log.warning("All vectors are made anew: %s", error.message)
        await self.rebuild()

    async def _again(self) -> None:
        await asyncio.sleep(self._timing.context_again)
        self._wanted.set()

    async def _call(self, method: str, *arguments: Any) -> Any:
        return await self._actor.call(method, *arguments, seconds=self._timing.vectors)


def _packed(numbers: Sequence[int]) -> bytes:
    """Return 64-bit integers, as the worker takes them."""
    return array.array("q", numbers).tobytes()
