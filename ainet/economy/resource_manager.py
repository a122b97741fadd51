"""What others may use of this device now: how busy it is, who gets a place, and whose turn it is."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING

from ainet.economy.load import BusyTime
from ainet.economy.places import Places, Room
from ainet.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ainet.economy.contribution import Record
    from ainet.economy.order import Order
    from ainet.economy.places import Place
    from ainet.economy.terms import Terms
    from ainet.economy.works import SoldModel
    from ainet.stages.protocol.flow import Flow

#: The part of a model's cells that sessions of others may have at most: the owner's questions find room at once.
CELLS = 0.5


class ResourceManager:
    """Shares this device between its owner and those who buy, as its owner's terms say.

    Memory, processors and GPUs are capped and reserved where models are loaded (`ainet.resources`); this is about the
    time of what is loaded.

    Parameters
    ----------
    record
        Returns what was seen of another one (node id): whom this device owes most is served first.
    every
        Seconds between two looks at the load.
    changed
        Called when it may be another one.
    """

    def __init__(
        self, record: Callable[[str], Record], *, every: float, changed: Callable[[], object] = lambda: None
    ) -> None:
        self._every, self._changed = every, changed
        #: How busy this device is for its owner, and with what it sells; never with both.
        self._own, self._sold = BusyTime(), BusyTime()
        self._places = Places(record)
        self._flows: dict[bytes, Flow] = {}
        #: The owner's questions: until when each is given time to begin (monotonic, s); None for one that has begun.
        self._owners: dict[int, float | None] = {}
        self._numbers = itertools.count()
        self._most_load = 1.0
        self._looking: asyncio.Task[None] | None = None

    def open(self, terms: Terms | None) -> None:
        """Share on these terms from now on; what goes on does so, also for None."""
        if terms is not None:
            self._most_load = terms.max_load
            self._looking = self._looking or asyncio.create_task(self._look(), name="others' part of the time")

    async def stop(self) -> None:
        """Look at the load no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    @property
    def load(self) -> float:
        """The part of the last minute in which this device was busy."""
        return min(self._own.share + self._sold.share, 1.0)

    @property
    def sessions(self) -> int:
        """The sessions of others that go on."""
        return self._places.taken

    @property
    def queue(self) -> int:
        """The sessions of others that wait for a place."""
        return self._places.waiting

    def starts_in(self, model: SoldModel) -> float:
        """Return the seconds until a session that is asked for now would get a place."""
        return self._places.starts_in(self._room(model))

    def has(self, session: bytes) -> bool:
        """Whether a session goes on here."""
        return session in self._flows

    @staticmethod
    def window(model: SoldModel, *, is_stranger: bool = False) -> int:
        """Return the most tokens that sessions of others may have in a model's cells, together, or of strangers."""
        cells = int(model.window * CELLS)
        return cells // 2 if is_stranger else cells

    def place(self, device: str, model: SoldModel, order: Order, moment: int, *, is_stranger: bool) -> Place:
        """Ask for a place for a session of another device (node id); raises `Busy` where there will be none soon."""
        size = order.prompt + order.most
        return self._places.ask(device, moment, is_stranger=is_stranger, room=self._room(model), size=size)

    def _room(self, model: SoldModel) -> Room:
        return Room(model.digest, self.window(model), model.slots)

    @contextlib.contextmanager
    def serving(self, session: bytes, flow: Flow) -> Iterator[None]:
        """Serve a session that has a place: it waits while the owner asks, or others have had their part.

        Raises
        ------
        ProtocolError
            There is another one with this id.
        """
        if session in self._flows:
            raise ProtocolError("There is a session with this id already.")
        self._flows[session] = flow
        self._sold.begin()
        self._pause()
        try:
            yield
        finally:
            self._sold.end()
            del self._flows[session]

    @contextlib.contextmanager
    def waiting(self) -> Iterator[Callable[[bool], None]]:
        """Let all sessions of others wait meanwhile: the owner's question takes the next token.

        Yields what is told whether the question has begun, and again if it begins anew elsewhere. One that does not
        begin at once may itself wait for what sessions of others have: they go on until it does, and nobody new comes.
        """
        number = next(self._numbers)
        self._owners[number] = time.monotonic() + self._every
        self._own.begin()
        self._pause()

        def tell(has_begun: bool) -> None:
            if has_begun is not (self._owners[number] is None):
                self._owners[number] = None if has_begun else time.monotonic() + self._every
                self._pause()

        try:
            yield tell
        finally:
            del self._owners[number]
            self._own.end()
            self._pause()

    def _pause(self) -> None:
        self._changed()
        self._places.hold(is_held=bool(self._owners))
        now = time.monotonic()
        is_asking = any(until is None or now < until for until in self._owners.values())
        is_held = is_asking or (not self._owners and self._sold.share > self._most_load)
        self._sold.hold(is_held=is_held)
        for flow in self._flows.values():
            if is_held and not flow.is_paused:
                flow.pause()
            elif flow.is_paused and not is_held:
                flow.go_on()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            self._pause()
