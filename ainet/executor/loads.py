"""Models that are being loaded, and how far that is."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from ainet.signals import Signal

if TYPE_CHECKING:
    import asyncio
    import logging
    from collections.abc import Callable, Iterator

    from ainet.hosting.requests import LoadProgress


class Loads:
    """Knows what is loaded for whom: each task that has told something, until it is done."""

    def __init__(self, log: logging.Logger) -> None:
        #: A load has begun, gone on, or ended.
        self.changed: Signal[[]] = Signal("models are being loaded", log)
        self._numbers = itertools.count(1)
        self._known: dict[int, tuple[str, LoadProgress]] = {}

    def __iter__(self) -> Iterator[tuple[int, str, LoadProgress]]:
        """Iterate over the loads: a number of its own, the model's name, and how far it is."""
        return iter([(number, model, progress) for number, (model, progress) in self._known.items()])

    def follow(
        self, model: str, progress: Callable[[LoadProgress], object]
    ) -> tuple[Callable[[LoadProgress], None], Callable[[asyncio.Task[object]], None]]:
        """Return what is told how far a load is, in place of `progress`, and what is called when its task is done.

        Parameters
        ----------
        model
            As it was asked for.
        """
        number, is_over = next(self._numbers), False

        def tell(one: LoadProgress) -> None:
            if not is_over:  # a thread that nobody waits for any more may go on
                self._known[number] = model, one
                self.changed.emit()
            progress(one)

        def done(_: asyncio.Task[object]) -> None:
            nonlocal is_over
            is_over = True
            if self._known.pop(number, None) is not None:
                self.changed.emit()

        return tell, done
