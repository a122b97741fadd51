"""Prompts whose keys and values every stage has kept: found by their tokens, forgotten by size and age."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: A prefix that nobody used for this long (s) is forgotten.
MAX_AGE = 3600.0


class Prefix(NamedTuple):
    """Tokens that were kept under a number, and how many cells of the KV cache a copy takes."""

    number: int
    tokens: NDArray[np.int32]
    cells: int


class Prefixes:
    """The prefixes that are kept, the longest unused first. All stages keep the same ones, because the head tells them.

    Parameters
    ----------
    room
        Tokens that may be kept, of all prefixes together.
    chunk
        Prefixes are shared in multiples of this many tokens: 1 where a row does not depend on the rows beside it, else
        the size of a prompt's chunk, so that what is kept was computed as it would be computed again.
    whole
        Whether a part of a prefix is of no use, because a state stands for all of it; then there are no chunks.
    overhead
        Tokens that a prefix counts for beside its own: as many as a state takes, for instance.
    """

    def __init__(
        self,
        room: int,
        chunk: int,
        *,
        whole: bool = False,
        overhead: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._room, self._chunk, self._clock = room, 1 if whole else chunk, clock
        self._whole, self._overhead = whole, overhead
        self._kept: dict[int, Prefix] = {}
        self._used: dict[int, float] = {}
        self._numbers = itertools.count(1)

    @property
    def size(self) -> int:
        """Tokens that are kept."""
        return sum(prefix.cells + self._overhead for prefix in self._kept.values())

    def find(self, tokens: NDArray[np.int32]) -> tuple[Prefix | None, int]:
        """Return the prefix that has most in common with a prompt, and how many tokens that is.

        The last token is never among them: it must be computed for what follows it.
        """
        found, most = None, 0
        for prefix in self._kept.values():
            n = self._common(prefix.tokens, tokens[:-1])
            if n > most and (n == len(prefix.tokens) or not self._whole):
                found, most = prefix, n
        if found is not None:
            self._touch(found.number)
        return found, most

    def add(self, tokens: NDArray[np.int32], cells: int) -> tuple[int | None, list[int]]:
        """Keep a prefix.

        Parameters
        ----------
        tokens
            The computed rows.
        cells
            Tokens that a copy holds: not fewer than `tokens`.

        Returns
        -------
        The number of the new one, None if it is not worth it, and the numbers of those that are forgotten.
        """
        tokens = tokens[: len(tokens) - len(tokens) % self._chunk]
        forgotten = self._expired()
        taken = cells + self._overhead
        if not len(tokens) or taken > self._room:
            return None, forgotten
        for prefix in list(self._kept.values()):
            n = self._common(prefix.tokens, tokens)
            if n == len(tokens) and (n == len(prefix.tokens) or not self._whole):  # there is nothing new in it
                self._touch(prefix.number)
                return None, forgotten
            if n == len(prefix.tokens):  # it is the beginning of the new one
                forgotten.append(self._forget(prefix.number))
        while self.size + taken > self._room:
            forgotten.append(self._forget(next(iter(self._kept))))
        number = next(self._numbers)
        self._kept[number] = Prefix(number, tokens, cells)
        self._touch(number)
        return number, forgotten

    def _common(self, kept: NDArray[np.int32], tokens: NDArray[np.int32]) -> int:
        n = min(len(kept), len(tokens))
        differ = np.flatnonzero(kept[:n] != tokens[:n])
        same = int(differ[0]) if len(differ) else n
        return same - same % self._chunk

    def _touch(self, number: int) -> None:
        self._kept[number] = self._kept.pop(number)  # now the last one to be forgotten
        self._used[number] = self._clock()

    def _expired(self) -> list[int]:
        oldest = self._clock() - MAX_AGE
        return [self._forget(number) for number, used in list(self._used.items()) if used < oldest]

    def _forget(self, number: int) -> int:
        del self._kept[number], self._used[number]
        return number
