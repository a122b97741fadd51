"""Reading a tensor from a member piece by piece, ahead of whoever writes it, as long as the member is quick enough."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from ainet.errors import NotEnough, PeerUnreachable, ProtocolError
from ainet.hosting.requests import PIECE, ReadTensor
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ainet.links.link import PeerLink
    from ainet.models.description import Tensor

#: Pieces under way at once, so that the link's latency does not matter.
WINDOW = 4
#: Bytes of the first pieces: small enough for a slow source to show in time that it sends at all.
FIRST_PIECE = 1 << 15
#: A source that sends less than `LEAST_RATE` (bytes a second) for `Timing.piece_rate` is too slow.
LEAST_RATE = 10_000


async def pieces(
    link: PeerLink, tensor: Tensor, position: int, *, timing: Timing = TIMING
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a tensor from `position` on; the time that the caller takes for them does not count.

    Parameters
    ----------
    link
        To the member that has it.
    tensor
        The tensor to read.
    position
        Bytes of it that are here already.

    Raises
    ------
    PeerUnreachable
        If the link is lost, or less than `LEAST_RATE` comes over it.
    ProtocolError
        If a piece has another length than the one that was asked for.
    AinetError
        The member's answer.
    """
    clock = asyncio.get_running_loop().time
    reads: deque[asyncio.Task[bytes]] = deque()
    size, arrived, deadline = FIRST_PIECE, 0, clock() + timing.piece_rate
    try:
        while reads or position < tensor.nbytes:
            while len(reads) < WINDOW and position < tensor.nbytes:
                length = min(size, tensor.nbytes - position)
                reads.append(asyncio.create_task(_read(link, tensor, position, length)))
                position += length
            begun = clock()
            try:
                async with asyncio.timeout_at(deadline):
                    data = await reads.popleft()
            except TimeoutError:
                raise PeerUnreachable(f"{link.peer_name} sends less than {LEAST_RATE / 1000:g} kB a second.") from None
            now = clock()
            if now - begun < timing.piece_quick:
                size = min(2 * size, PIECE)
            arrived += len(data)
            if arrived >= LEAST_RATE * timing.piece_rate:
                arrived, deadline = 0, now + timing.piece_rate
            yield data
            deadline += clock() - now
    finally:
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


async def _read(link: PeerLink, tensor: Tensor, offset: int, length: int) -> bytes:
    try:
        data: bytes = (await link.request(ReadTensor(tensor.hash, offset, length), timeout=None)).data
    except NotEnough as exc:  # which means this device's disk to whoever fetches
        raise PeerUnreachable(exc.message) from exc
    if len(data) != length:
        raise ProtocolError(
            f"{link.peer_name} sent {len(data):,} bytes of {tensor.name} where {length:,} were asked for."
        )
    return data
