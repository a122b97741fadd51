"""Fetching tensors from members: only those that a shard needs, verified by hash, resumed where a cut left them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
import weakref
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ainet.errors import AinetError, ModelError, NotEnough, NotFound, PeerUnreachable
from ainet.hosting.pieces import pieces
from ainet.timing import TIMING, Timing
from ainet.units import show_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from ainet.links.links import Links
    from ainet.models.description import Tensor
    from ainet.models.manifest import Manifest
    from ainet.models.part_writer import PartWriter
    from ainet.models.tensors import TensorStore

    P = ParamSpec("P")
    T = TypeVar("T")

ROUNDS = 5
#: Progress is told at most this often (s).
REPORT_SECONDS = 0.1


class Fetcher:
    """Brings tensors into the store.

    Parameters
    ----------
    store
        Their destination.
    links
        The ways to members.
    rounds
        Rounds over all sources before it gives up: a link that broke is dialled again meanwhile.
    """

    def __init__(self, store: TensorStore, links: Links, *, rounds: int = ROUNDS, timing: Timing = TIMING) -> None:
        self._store = store
        self._links = links
        self._rounds, self._timing = rounds, timing
        # By hash, as two stages of one model share some tensors; a lock that nobody uses vanishes.
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def fetch(
        self,
        manifest: Manifest,
        layers: tuple[int, int],
        sources: Sequence[str],
        progress: Callable[[int, int], None],
    ) -> int:
        """Fetch what a shard with these layers lacks; returns the bytes received, useless ones included.

        Parameters
        ----------
        manifest
            The model.
        layers
            First and last layer, inclusive.
        sources
            Node ids that have it, best first.
        progress
            Told the bytes done and the bytes in all.

        Raises
        ------
        NotFound
            If nobody has the tensors.
        PeerUnreachable
            If no source sends them; what arrived is kept, and the next try goes on from there.
        ModelError
            If every source sends something else.
        NotEnough
            If the disk does not suffice.
        """
        missing = await asyncio.to_thread(self._store.missing, manifest, *layers)
        total = sum(tensor.nbytes for tensor in missing)
        if missing and not sources:
            raise NotFound(f"No member that can be reached has {manifest.name} ({show_bytes(total)} are missing here).")
        ranked = list(sources)
        done = received = 0
        told = 0.0
        for tensor in missing:

            def count(n: int, base: int = done) -> None:
                nonlocal told
                now = time.monotonic()
                if now - told >= REPORT_SECONDS or base + n == total:
                    told = now
                    progress(base + n, total)

            lock = self._locks.setdefault(tensor.hash, asyncio.Lock())
            async with lock:
                if await asyncio.to_thread(self._store.has, tensor.hash):  # meanwhile, for another stage
                    count(tensor.nbytes)
                else:
                    received += await self._fetch_tensor(tensor, ranked, count)
            done += tensor.nbytes
        return received

    async def _fetch_tensor(self, tensor: Tensor, ranked: list[str], count: Callable[[int], None]) -> int:
        """Fetch a tensor; a source that fails moves to the end of `ranked`. Returns the bytes received."""
        received: list[int] = []
        wrong: set[str] = set()
        for number in range(self._rounds):
            if number:
                await asyncio.sleep(self._timing.fetch_pause)
            for source in [source for source in ranked if source not in wrong]:
                try:
                    await self._read(tensor, source, count, received.append)
                    return sum(received)
                except NotEnough:  # it is this device's disk: no source can help
                    raise
                except AinetError as exc:
                    error = exc
                    ranked.remove(source)
                    ranked.append(source)
                    if isinstance(exc, ModelError):  # it sends something else: no use to ask it again
                        wrong.add(source)
            if wrong.issuperset(ranked):
                raise error
        raise PeerUnreachable(
            f"The tensor {tensor.name} could not be fetched. {error} What arrived is kept: ask again to go on."
        )

    async def _read(
        self, tensor: Tensor, source: str, count: Callable[[int], None], received: Callable[[int], None]
    ) -> None:
        link = await self._links.connect(source)
        async with self._writer(tensor) as writer:
            resumed = writer.position > 0
            try:
                async with contextlib.aclosing(pieces(link, tensor, writer.position, timing=self._timing)) as arriving:
                    async for data in arriving:
                        await _to_end(writer.write, data)
                        count(writer.position)
                await _to_end(writer.finish)
            except ModelError as exc:
                if resumed:  # the wrong bytes may be another source's; without them this one can be asked again
                    raise AinetError(exc.message) from exc
                raise
            finally:
                received(writer.received)

    @contextlib.asynccontextmanager
    async def _writer(self, tensor: Tensor) -> AsyncGenerator[PartWriter, None]:
        opened: list[PartWriter] = []
        try:
            # Into a list: who is cancelled while it opens gets no result, but must close it.
            await _to_end(lambda: opened.append(self._store.writer(tensor)))
            yield opened[0]
        finally:
            for writer in opened:
                await _to_end(writer.close)


async def _to_end(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do blocking `work` in a thread; who is cancelled meanwhile waits for its end, as a thread cannot be stopped."""
    running = asyncio.get_running_loop().run_in_executor(None, functools.partial(work, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        running.exception()  # seen
        raise cancelled
    return running.result()
