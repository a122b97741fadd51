"""Fetching tensors from members: only those that a shard needs, verified by hash, resumed where a cut left them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ainet.config import show_bytes
from ainet.errors import AinetError, ModelError, NotFound, PeerUnreachable
from ainet.executor.messages import PIECE, ReadTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ainet.executor.models.manifest import Manifest, Tensor
    from ainet.executor.models.tensors import TensorStore
    from ainet.network import Links

#: Pieces under way at once, so that the link's latency does not matter.
WINDOW = 4
#: Rounds over all sources before giving up, and seconds between them: a link that broke is dialled again.
ROUNDS = 5
PAUSE = 1.0
#: Progress is told at most this often (s).
REPORT_SECONDS = 0.1


class Fetcher:
    """Brings tensors into the store.

    Parameters
    ----------
    store
        Where they go.
    links
        How members are reached.
    """

    def __init__(self, store: TensorStore, links: Links) -> None:
        self._store = store
        self._links = links
        self._lock = asyncio.Lock()

    async def fetch(
        self,
        manifest: Manifest,
        layers: tuple[int, int],
        sources: Sequence[str],
        progress: Callable[[int, int], None],
    ) -> int:
        """Fetch what a shard with these layers lacks; returns the bytes received.

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
            If the sources cannot be reached; what arrived is kept, and the next try goes on from there.
        NotEnough
            If the disk does not suffice.
        """
        async with self._lock:  # two stages of one model share most of their sources and some of their tensors
            missing = await asyncio.to_thread(self._store.missing, manifest, *layers)
            total = sum(tensor.nbytes for tensor in missing)
            if missing and not sources:
                msg = f"No member that can be reached has {manifest.name} ({show_bytes(total)} are missing here)."
                raise NotFound(msg)
            done = received = 0
            told = 0.0
            for tensor in missing:

                def count(n: int, base: int = done) -> None:
                    nonlocal told
                    now = time.monotonic()
                    if now - told >= REPORT_SECONDS or base + n == total:
                        told = now
                        progress(base + n, total)

                received += await self._fetch_tensor(tensor, sources, count)
                done += tensor.nbytes
            return received

    async def _fetch_tensor(self, tensor: Tensor, sources: Sequence[str], count: Callable[[int], None]) -> int:
        candidates = list(sources)
        for _ in range(ROUNDS):
            for source in list(candidates):
                try:
                    return await self._read(tensor, source, count)
                except ModelError as exc:  # it sends something else: no use to ask it again
                    candidates.remove(source)
                    if not candidates:
                        raise
                    error: AinetError = exc
                except (PeerUnreachable, NotFound) as exc:
                    error = exc
            await asyncio.sleep(PAUSE)
        msg = f"The tensor {tensor.name} could not be fetched. {error} What arrived is kept: ask again to go on."
        raise PeerUnreachable(msg)

    async def _read(self, tensor: Tensor, source: str, count: Callable[[int], None]) -> int:
        link = await self._links.connect(source)
        received = 0
        with await asyncio.to_thread(self._store.writer, tensor) as writer:
            offsets = range(writer.position, tensor.nbytes, PIECE)
            reads: list[asyncio.Task[bytes]] = []

            async def read(offset: int) -> bytes:
                length = min(PIECE, tensor.nbytes - offset)
                return (await link.request(ReadTensor(tensor.hash, offset, length))).data

            try:
                for i, _ in enumerate(offsets):
                    ahead = offsets[i + len(reads) : i + WINDOW]
                    reads.extend(asyncio.create_task(read(offset)) for offset in ahead)
                    data = await reads.pop(0)
                    await asyncio.to_thread(writer.write, data)
                    received += len(data)
                    count(writer.position)
            finally:
                for task in reads:
                    task.cancel()
                await asyncio.gather(*reads, return_exceptions=True)
            await asyncio.to_thread(writer.finish)
        return received
