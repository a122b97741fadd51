"""What others would have bought here, had it been there: so an owner sees what more would be used."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from ainet.files import KeptFile

if TYPE_CHECKING:
    import logging
    from pathlib import Path

#: Why something was not sold: the model is not here, the text is too long for it, it was the wrong hour, no place was
#: free, or whoever asked had had its allowance.
Reason = Literal["model", "length", "hour", "place", "allowance"]
DAYS, MOST_KINDS = 30, 200


class Missed(msgspec.Struct, frozen=True):
    """Questions of a day that were not answered for one reason; `what` is a model, a length, or an hour."""

    day: str
    reason: Reason
    what: Annotated[str, msgspec.Meta(max_length=200)]
    times: int


class Demand:
    """Counts what was refused, day by day.

    Parameters
    ----------
    path
        The file in which it is kept.
    """

    def __init__(self, path: Path, log: logging.Logger) -> None:
        self._file = KeptFile(path, log)
        try:
            known = msgspec.json.decode(path.read_bytes(), type=list[Missed])
        except (OSError, msgspec.MsgspecError):
            known = []  # it is counted anew
        self._times = Counter({(one.day, one.reason, one.what): one.times for one in known})

    def note(self, reason: Reason, what: str = "") -> None:
        """Count a question that was not answered."""
        today = datetime.date.today()
        first = (today - datetime.timedelta(days=DAYS)).isoformat()
        key = (today.isoformat(), reason, what[:200])
        if key not in self._times and sum(day == key[0] for day, _, _ in self._times) >= MOST_KINDS:
            return  # somebody asks for one name after the other
        self._times[key] += 1
        self._times = Counter({one: n for one, n in self._times.items() if one[0] >= first})
        self._file.write(msgspec.json.encode([Missed(*one, n) for one, n in self._times.items()]))

    def missed(self, days: int) -> list[tuple[Reason, str, int]]:
        """Return what was refused in the last days, the most frequent first: why, what, and how often."""
        first = (datetime.date.today() - datetime.timedelta(days=days - 1)).isoformat()
        found: Counter[tuple[Reason, str]] = Counter()
        for (day, reason, what), n in self._times.items():
            if day >= first:
                found[reason, what] += n
        return [(reason, what, n) for (reason, what), n in found.most_common()]

    async def flush(self) -> None:
        """Wait until it is on the disk."""
        await self._file.flush()
