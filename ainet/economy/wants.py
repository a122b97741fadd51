"""What an owner wants, and what it is worth: a bonus for whoever serves a model, and does it well for a while."""

from __future__ import annotations

import datetime
from collections import defaultdict
from typing import TYPE_CHECKING, Annotated

import msgspec

from ainet.economy.credits import Credits
from ainet.files import KeptFile

if TYPE_CHECKING:
    import logging
    from pathlib import Path

#: Answers that must have been checked, and right, before a bonus is paid; and wants of one owner.
NEEDED, MOST_WANTS = 20, 8

Day = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]


class Want(msgspec.Struct, frozen=True):
    """A wish, as it travels to those who sell.

    Attributes
    ----------
    model
        The model's name.
    speed
        Tokens a second, at least.
    bonus
        Credits of the wishing device's work.
    seconds
        The same as seconds of it.
    until
        The last day.
    """

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    speed: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    bonus: Credits
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e7)]
    until: Day

    @property
    def is_open(self) -> bool:
        """Whether its last day is not over."""
        return datetime.date.today().isoformat() <= self.until


class _Kept(msgspec.Struct, frozen=True):
    want: Want
    #: By seller, right answers so far.
    good: dict[str, int] = msgspec.field(default_factory=dict)


class Wants:
    """Keeps the owner's wishes, counts who fulfils them, and knows those of contacts.

    Parameters
    ----------
    path
        The file in which they are kept.
    """

    def __init__(self, path: Path, log: logging.Logger) -> None:
        self._file = KeptFile(path, log)
        try:
            known = msgspec.json.decode(path.read_bytes(), type=list[_Kept])
        except (OSError, msgspec.MsgspecError):
            known = []  # a wish can be said again
        self._own = {one.want.model.casefold(): one for one in known}
        #: What contacts (node ids) want, as they said last.
        self.of_others: dict[str, list[Want]] = defaultdict(list)

    def own(self) -> list[Want]:
        """Return the owner's wishes that are open."""
        return [one.want for one in self._own.values() if one.want.is_open]

    def add(self, want: Want) -> None:
        """Wish something; what was wished of the same model before is taken back."""
        self._own[want.model.casefold()] = _Kept(want)
        self._save()

    def remove(self, model: str) -> bool:
        """Take a wish back; tells whether there was one."""
        found = self._own.pop(model.casefold(), None) is not None
        self._save()
        return found

    def progress(self, model: str) -> int:
        """Return how many right answers whoever is nearest to the bonus has given."""
        one = self._own.get(model.casefold())
        return max(one.good.values(), default=0) if one is not None else 0

    def answered(self, seller: str, model: str, speed: float) -> Want | None:
        """Count a right answer of a seller; returns the wish for which its bonus is due until it is taken back."""
        one = self._own.get(model.casefold())
        if one is None or not one.want.is_open or speed < one.want.speed:
            return None
        good = {**one.good, seller: one.good.get(seller, 0) + 1}
        self._own[model.casefold()] = _Kept(one.want, good)
        self._save()
        return one.want if good[seller] >= NEEDED else None

    async def flush(self) -> None:
        """Wait until it is on the disk."""
        await self._file.flush()

    def _save(self) -> None:
        self._file.write(msgspec.json.encode(list(self._own.values())))
