"""What devices do for each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from ainet.api.limits import Limits
from ainet.api.verb import Option, Verb

#: What usage is added up by.
UsageBy = Literal["peer", "model", "day"]
Days = Annotated[int, Limits(1, 400)]


@dataclass(frozen=True, kw_only=True)
class UsageSum:
    """What was done, and for whom.

    Attributes
    ----------
    worked, asked
        The names of the device that worked and of the one that it worked for; None where devices are added up.
    model, day
        The model's name (empty: none) and the date, where it is added up by them.
    answers
        Answers that began.
    prompt_tokens, generated_tokens
        Tokens of questions and answers, counted where their pipeline belongs to, also of those that were interrupted.
    seconds
        For which the device worked.
    layer_tokens
        Tokens times the layers that computed them.
    sent, relayed
        Bytes that it sent, and that it handed on between others.
    kept
        Bytes that it keeps for others.
    """

    worked: str | None = None
    asked: str | None = None
    model: str | None = None
    day: str | None = None
    answers: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    layer_tokens: int = 0
    sent: int = 0
    relayed: int = 0
    kept: int = 0


@dataclass(frozen=True, kw_only=True)
class UsageDay:
    """A device's day: for how long (seconds) it worked, and the tokens that its pipelines answered with."""

    day: str
    device: str
    seconds: float
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What the owner's devices did.

    Attributes
    ----------
    days
        For how many days, today included.
    sums
        By what was asked for: `by`; where most was done first, days in their order.
    plot
        Each day of each device on which it did something.
    away
        Devices that could not be asked: what they have done since they were last here comes when they return.
    problem
        Why usage is not written down at the moment; empty where it is.
    """

    days: int
    by: UsageBy
    sums: list[UsageSum]
    plot: list[UsageDay] = field(default_factory=list)
    away: list[str] = field(default_factory=list)
    problem: str = ""


@dataclass(frozen=True)
class UsageRequest:
    """Of which time, and added up by what."""

    by: Annotated[UsageBy, Option("add up by peer (default), model or day")] = "peer"
    days: Annotated[Days, Option("of this number of days, today included (default: 7)", metavar="N")] = 7


usage = Verb("usage", "show what your devices did, and for whom", "GET", "usage", UsageRequest, Usage)
