"""Places of a device that sells: how many sessions go on at once, and who gets the next one."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from ainet.economy.contribution import CONTACT, STRANGER, Asker, ContributionScore, order_of_service
from ainet.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ainet.economy.contribution import Record

#: Sessions of all together at the same time, and of those that wait.
PLACES, WAITING = 8, 16
#: Slots of a model that are left to its owner, where it has as many.
OWN_SLOTS = 2
#: Sessions of one contact at the same time, and of one stranger; those that wait count.
EACH, EACH_STRANGER = 2, 1
#: How far the duration of the last session moves what is expected of the next one.
WEIGHT = 0.2


class Room(NamedTuple):
    """What sessions of a model use.

    Attributes
    ----------
    model
        Whose they are.
    cells
        Tokens for which those of others have room.
    slots
        Sessions that can go on at once, the owner's included.
    """

    model: bytes
    cells: int
    slots: int

    @property
    def places(self) -> int:
        """The slots that others may have: some are left to the owner, or the next one that is free."""
        return max(min(PLACES, self.slots - OWN_SLOTS), 1)

    @property
    def of_strangers(self) -> int:
        """The places that strangers may have, all together: whatever they are called, contacts find some, too."""
        return max(self.places // 2, 1)

    @property
    def cells_of_strangers(self) -> int:
        """The cells that they may have, all together."""
        return self.cells // 2


class Place:
    """A place, or the wait for one. As a context it is given back at the end.

    Attributes
    ----------
    asker
        Who wants it.
    room
        What it uses.
    size
        How much of that.
    """

    def __init__(self, places: Places, asker: Asker, room: Room, size: int) -> None:
        self.asker, self.room, self.size = asker, room, size
        self._places = places
        self.given = asyncio.Event()
        #: When it was given, on the event loop's clock (s).
        self.since = 0.0

    @property
    def before(self) -> int:
        """How many get theirs before this one."""
        return self._places.order().index(self)

    async def wait(self, seconds: float) -> bool:
        """Wait until the place is given, at most this long; tells whether it is."""
        try:
            async with asyncio.timeout(seconds):
                await self.given.wait()
        except TimeoutError:
            pass
        return self.given.is_set()

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.leave(self)


class Places:
    """Gives places to whom this device owes most, then to who asked first.

    Parameters
    ----------
    record
        Returns what was seen of a device (node id).
    """

    def __init__(self, record: Callable[[str], Record]) -> None:
        self._record = record
        self._taken: list[Place] = []
        self._waiting: list[Place] = []
        self._cells: Counter[bytes] = Counter()
        self._sessions: Counter[bytes] = Counter()
        #: Whether no place is given for now: the owner comes first.
        self._is_held = False
        #: Seconds that a session takes, as the last ones did; 0: none has ended yet.
        self._lasts = 0.0

    @property
    def taken(self) -> int:
        """The places that are taken."""
        return len(self._taken)

    @property
    def waiting(self) -> int:
        """The sessions that wait for a place."""
        return len(self._waiting)

    def starts_in(self, room: Room) -> float:
        """Return the seconds until a session that is asked for now would begin, as far as that can be told."""
        same = sum(place.room.model == room.model for place in (*self._taken, *self._waiting))
        return max(same - room.places + 1, 0) * self._lasts / room.places

    def hold(self, *, is_held: bool) -> None:
        """Give no place for now, or give them again."""
        self._is_held = is_held
        self._give()

    def ask(self, device: str, moment: int, *, is_stranger: bool, room: Room, size: int) -> Place:
        """Ask for a place; it may be given at once.

        Parameters
        ----------
        device
            Node id.
        moment
            Now (ms).
        room, size
            What it uses, and for how many tokens.

        Raises
        ------
        Busy
            The device has all that it may have, or too many wait already.
        """
        each = EACH_STRANGER if is_stranger else EACH
        if sum(place.asker.device == device for place in (*self._taken, *self._waiting)) >= each:
            raise Busy(f"{each} of your questions are answered already. Wait for one of them.", retry_after=5.0)
        if len(self._waiting) >= WAITING:
            raise Busy(f"{WAITING} others wait already. Ask again soon.", retry_after=5.0)
        place = Place(self, Asker(device, STRANGER if is_stranger else CONTACT, moment), room, size)
        self._waiting.append(place)
        self._give()
        return place

    def leave(self, place: Place) -> None:
        """Give a place back, or wait for it no more."""
        if place in self._waiting:
            self._waiting.remove(place)
        else:
            self._taken.remove(place)
            self._cells[place.room.model] -= place.size
            self._sessions[place.room.model] -= 1
            lasted = asyncio.get_running_loop().time() - place.since
            self._lasts += WEIGHT * (lasted - self._lasts) if self._lasts else lasted
        self._give()

    def order(self) -> list[Place]:
        """Return who waits, the next one first."""
        waiting = {id(place.asker): place for place in self._waiting}
        records = {place.asker.device: self._record(place.asker.device) for place in self._waiting}
        ordered = order_of_service([place.asker for place in self._waiting], ContributionScore(records, {}))
        return [waiting[id(asker)] for asker in ordered]

    def _has_room_for_stranger(self, place: Place) -> bool:
        strangers, room = [one for one in self._taken if one.asker.rank == STRANGER], place.room
        same = [one for one in strangers if one.room.model == room.model]
        is_free = len(same) < room.of_strangers and len(strangers) < PLACES // 2
        return is_free and sum(one.size for one in same) + place.size <= room.cells_of_strangers

    def _give(self) -> None:
        """Give what is free; who wants the same model as the next one, but less of it, does not overtake that one."""
        full = set[bytes]()
        for place in [] if self._is_held else self.order():
            room = place.room
            if place.asker.rank == STRANGER and not self._has_room_for_stranger(place):
                continue  # contacts need not wait for it
            is_full = self._sessions[room.model] >= room.places or len(self._taken) >= PLACES
            if is_full or self._cells[room.model] + place.size > room.cells:
                full.add(room.model)
            if room.model in full:
                continue
            self._waiting.remove(place)
            self._taken.append(place)
            self._cells[room.model] += place.size
            self._sessions[room.model] += 1
            place.since = asyncio.get_running_loop().time()
            place.given.set()
