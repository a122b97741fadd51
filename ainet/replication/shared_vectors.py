"""Vectors that take long to make are made once: the owner's devices give them to each other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ainet.errors import AinetError
from ainet.replication.requests import MAX_VECTOR, MAX_VECTORS, ReadVectors, VectorPlace, Vectors
from ainet.storage.journal import OWN
from ainet.storage.records import PassagePlace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ainet.links.links import Links
    from ainet.storage.hybrid import HybridStorage
    from ainet.storage.records import VectorIndex

    #: Returns the vectors that are here, of an index and these passages, by passage.
    Read = Callable[[VectorIndex, Sequence[int]], Awaitable[dict[int, bytes]]]

#: Bytes of the vectors in one message.
MOST_BYTES = 2 * 1024 * 1024


class SharedVectors:
    """Asks the owner's other devices for vectors, and gives them those that are here.

    Parameters
    ----------
    storage
        Knows which passages are known of others, too.
    links
        To these.
    """

    def __init__(self, storage: HybridStorage, links: Links) -> None:
        self._storage, self._replicas, self._links = storage, storage.replicas, links
        self._me = links.identity.id

    @staticmethod
    def most(dimensions: int) -> int:
        """Return for how many passages to ask at once."""
        return max(1, min(MAX_VECTORS, MOST_BYTES // (4 * dimensions)))

    async def ask(self, index: VectorIndex, passages: Sequence[int]) -> dict[int, bytes]:
        """Return those vectors of these passages (`most` of them, at most) that a linked device has."""
        links = {link.peer_id: link for link in self._links.links()}
        if not links or 4 * index.dimensions > MAX_VECTOR:
            return {}
        places = await asyncio.to_thread(self._replicas.places, passages)
        found: dict[int, bytes] = {}
        for link in links.values():
            missing = [number for number in places if number not in found]
            if not missing:
                break
            asked = [self._told(places[number]) for number in missing]
            try:
                answer = await link.request(ReadVectors(index.model, asked))
            except AinetError:
                continue  # it has an older version, or is gone: they are made here
            given = zip(missing, answer.vectors, strict=False)
            found |= {number: vector for number, vector in given if len(vector) == 4 * index.dimensions}
        return found

    async def answer(self, request: ReadVectors, read: Read) -> Vectors:
        """Return the vectors that are here."""
        indexes = await asyncio.to_thread(self._storage.indexes)
        index = next((one for one in indexes if one.model == request.model), None)
        if index is None:
            return Vectors([])
        places = [self._meant(one) for one in request.places[: self.most(index.dimensions)]]
        passages = await asyncio.to_thread(self._replicas.passages_at, places, index.id)
        known = [number for number in passages if number is not None]
        vectors = await read(index, known) if known else {}
        return Vectors([vectors.get(number, b"") if number is not None else b"" for number in passages])

    def _told(self, place: PassagePlace) -> VectorPlace:
        return VectorPlace(place.origin or self._me, place.item, place.seq, place.position)

    def _meant(self, place: VectorPlace) -> PassagePlace:
        origin = OWN if place.origin == self._me else place.origin
        return PassagePlace(origin, place.item, place.seq, place.position)
