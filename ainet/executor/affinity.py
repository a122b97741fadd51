"""The pipelines that answered conversations before: their keys and values are still there."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

#: Texts are told apart in blocks of this many bytes.
BLOCK = 256
#: This many blocks are remembered: the longest unused ones are forgotten.
MAX_BLOCKS = 10_000
#: What was answered before must be at least this share of a text: a common system prompt alone binds nobody.
SHARE = 0.5


class Affinity:
    """Remembers which pipeline read which beginnings of texts.

    (As in SGLang's router, which sends a request where at least a part of it was seen, else to who has least to do.)
    """

    def __init__(self) -> None:
        self._places: OrderedDict[bytes, str] = OrderedDict()

    def note(self, text: str, pipeline: str) -> None:
        """Note that the pipeline with this name has read `text`."""
        for block in _blocks(text):
            self._places[block] = pipeline
            self._places.move_to_end(block)
        while len(self._places) > MAX_BLOCKS:
            self._places.popitem(last=False)

    def find(self, text: str, pipelines: Container[str]) -> str | None:
        """Return which of the pipelines has read the longest beginning of `text`, if that is a good part of it."""
        found, n, read = None, 0, 0
        for block in _blocks(text):
            n += 1
            if self._places.get(block) in pipelines:
                found, read = self._places[block], n
        return found if read >= SHARE * n else None


def _blocks(text: str) -> Iterator[bytes]:
    """Yield a digest of the text up to the end of each block."""
    data = text.encode()
    digest = hashlib.blake2b(digest_size=16)
    for end in range(BLOCK, len(data) + 1, BLOCK):
        digest.update(data[end - BLOCK : end])
        yield digest.digest()
