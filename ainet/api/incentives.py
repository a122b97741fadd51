"""What owners promise each other for more, and what more would be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ainet.api.limits import Limits
from ainet.api.verb import Option, Verb

Model = Annotated[str, Limits(1, 200)]
#: Why a question was not answered here.
MissedReason = Literal["model", "length", "hour", "place", "allowance"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A bonus that is promised for a model.

    Attributes
    ----------
    speed
        Tokens a second, at least.
    seconds
        The bonus, as time of the device that promises it.
    until
        The last day.
    peer
        Who promises it; empty for this device.
    answers, needed
        Right answers so far of whoever is nearest to it, and how many it takes.
    """

    model: str
    speed: float
    seconds: float
    until: str
    peer: str
    answers: int
    needed: int


@dataclass(frozen=True)
class WantState:
    """What this device promises."""

    wants: list[Wanted]


@dataclass(frozen=True)
class MissedQuestions:
    """Questions of others that were not answered: why, of which model, length or hour, and how many."""

    reason: MissedReason
    what: str
    times: int


@dataclass(frozen=True, kw_only=True)
class Earnings:
    """What more would have been used of this device, and what contacts promise."""

    days: int
    missed: list[MissedQuestions]
    wanted: list[Wanted]


@dataclass(frozen=True)
class WantRequest:
    """Which model, how fast, what for, and until when."""

    model: Model
    speed: float
    bonus: str
    until: str


@dataclass(frozen=True)
class WantNoMoreRequest:
    """Which promise is taken back."""

    model: Model


@dataclass(frozen=True)
class EarnRequest:
    """Of which time."""

    days: Annotated[int, Limits(1, 30), Option("of this number of days, today included (default: 7)", metavar="N")] = 7


want = Verb("want", "promise a bonus for a model", "POST", "wants", WantRequest, WantState)
want_no_more = Verb("want_no_more", "take a promise back", "DELETE", "wants/{model}", WantNoMoreRequest, WantState)
earn = Verb("earn", "show what more would be used of this device", "GET", "earnings", EarnRequest, Earnings)
