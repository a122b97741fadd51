"""The vectors of passages: made in a worker while it has nothing better to do, asked there, and written anew."""

from __future__ import annotations

import array
import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from ainet.context.leased_actor import LeasedActor, WorkerLost
from ainet.errors import AinetError, NotEnough
from ainet.storage.records import Found
from ainet.vectors.actor import VectorActor

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence
    from pathlib import Path

    from ainet.engine.engine import Engine
    from ainet.engine.worker_pool import WorkerPool
    from ainet.storage.hybrid import HybridStorage
    from ainet.storage.records import VectorIndex
    from ainet.timing import Timing

FOLDER = "vectors"
#: Passages whose vectors are made at once.
BATCH = 256
#: Where this number, or this part, of vectors is owed, the table is written anew although nothing was forgotten on
#: purpose: files that change leave the vectors of what they said before.
MANY_OWED, PART_OWED = 1000, 0.1


class ContextVectors:
    """Keeps the vectors of all passages.

    Parameters
    ----------
    storage
        Says which passages there are, and which of them have vectors.
    folder
        Where the tables lie.
    engine, workers
        Where vectors are made.
    """

    def __init__(
        self,
        storage: HybridStorage,
        folder: Path,
        *,
        engine: Engine,
        workers: WorkerPool,
        log: logging.Logger,
        timing: Timing,
    ) -> None:
        self._storage, self._log, self._timing = storage, log, timing
        self._actor = LeasedActor(
            VectorActor,
            str(folder),
            engine=engine,
            workers=workers,
            log=log,
            timing=timing,
            idle=timing.vectors_idle,
            retire=True,
        )
        self._wanted, self._is_paused = asyncio.Event(), False
        self._idle = asyncio.Event()
        self._model: tuple[str, str, int] | None = None
        self._working = asyncio.create_task(self._work(), name="vectors")
        #: Why no vectors are made, in words; empty where they are.
        self.failed = ""

    def notice(self) -> None:
        """Look for passages that need vectors, and for vectors whose passages are gone."""
        self._idle.clear()
        self._wanted.set()

    def pause(self, pause: bool) -> None:
        """Make no vectors, or go on."""
        self._is_paused = pause
        self._wanted.set()

    async def settled(self) -> None:
        """Wait until all passages have vectors, and none is owed that should be gone."""
        await self._idle.wait()

    async def search(self, question: str, n: int, among: Sequence[int] | None = None) -> list[Found]:
        """Return the passages nearest to a question; none where vectors cannot be asked within a moment."""
        try:
            async with asyncio.timeout(self._timing.vectors_asked):
                index = await self._index()
                numbers = _packed(among) if among is not None else None
                try:
                    found, similarities = await self._call("search", index.table, question, n, numbers)
                except WorkerLost:  # it may have ended long ago, unasked
                    found, similarities = await self._call("search", index.table, question, n, numbers)
        except (TimeoutError, WorkerLost, NotEnough) as exc:
            self._log.info("Vectors could not be asked: %r.", exc)
            return []
        except AinetError as exc:
            await self._make_anew(exc)
            return []
        return [Found(passage, score) for passage, score in zip(found, similarities, strict=True)]

    async def numbers(self) -> tuple[list[int], list[int]]:
        """Return the passages that should have vectors, and those that have."""
        index, should = await asyncio.to_thread(self._storage.embedded, (await self._index()).id)
        there = array.array("q")
        there.frombytes(await self._call("passages", index.table))
        return should, list(there)

    async def rebuild(self) -> None:
        """Make all vectors anew."""
        await asyncio.to_thread(self._storage.reset_index, (await self._index()).id)
        self.notice()

    async def stop(self) -> None:
        """End what is being done."""
        self._working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._working
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
                self.failed = ""
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
            if not self._wanted.is_set():
                self._idle.set()

    async def _embed(self) -> None:
        """Make the vectors that are missing."""
        if not await asyncio.to_thread(self._storage.needs_vectors):
            return
        index = await self._index()
        while True:
            passages = await asyncio.to_thread(self._storage.next_unembedded, index.id, BATCH)
            if not passages or self._is_paused:
                break
            numbers = [one.id for one in passages]
            texts = [f"{one.header}\n{one.text}" for one in passages]
            await self._call("add", index.table, _packed(numbers), texts)
            await asyncio.to_thread(self._storage.note_embedded, index.id, numbers)
        await self._call("settle", index.table)

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
            await self._call("keep_only", [one.table for one in await asyncio.to_thread(self._storage.indexes)])
            await asyncio.to_thread(self._storage.note_paid, found)

    async def _index(self) -> VectorIndex:
        """Return the index of the actor's model."""
        if self._model is None:
            self._model = await self._call("model")
        return await asyncio.to_thread(self._storage.open_index, *self._model)

    async def _make_anew(self, error: AinetError) -> None:
        """Have all vectors made anew: their table cannot be used."""
        if self._model is None:
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
