"""What devices of different owners owe each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from ainet.api.limits import Limits
from ainet.api.verb import LONG, Nothing, Option, Verb

#: What a row of the ledger is about.
LedgerKind = Literal["session", "gift", "bonus", "recovered"]


@dataclass(frozen=True, kw_only=True)
class PairBalance:
    """The account with one device of another owner.

    Attributes
    ----------
    had_s
        For how long it worked for this device, in its own time; 0 where it does not say how fast it is.
    gave_s
        For how long this device worked for it.
    left_s
        What it may still have of this device now.
    had, gave, left
        The same in credits.
    lost
        Credits that it had and did not acknowledge.
    """

    peer: str
    had_s: float
    gave_s: float
    left_s: float
    had: int
    gave: int
    left: int
    lost: int


@dataclass(frozen=True, kw_only=True)
class Balances:
    """The accounts with all contacts, and what is wrong with the ledger, if anything is."""

    accounts: list[PairBalance]
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """A row of the ledger.

    Attributes
    ----------
    is_own
        Whether this device received, and signed.
    credits, lost
        What was acknowledged, and what was not.
    time
        Unix seconds.
    price
        By what the work was multiplied.
    finish
        How an answer ended; None for one that was not ended by its seller.
    checked, check_limit
        What a check has found, and up to where that is what the model would have said; None: not checked.
    """

    id: int
    peer: str
    is_own: bool
    kind: LedgerKind
    session: str
    credits: int
    lost: int
    time: int
    model: str | None = None
    price: float | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    finish: str | None = None
    checked: float | None = None
    check_limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class LedgerRows:
    """Rows of the ledger, the oldest first."""

    rows: list[LedgerEntry]
    problem: str = ""


@dataclass(frozen=True)
class LedgerRequest:
    """Of which time."""

    days: Annotated[int, Limits(1, 100_000), Option("of this number of days (default: 30)", metavar="N")] = 30


@dataclass(frozen=True)
class LedgerProblem:
    """Something that is wrong: in which row (0: in none), in words."""

    row: int
    words: str


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a check of the whole ledger has found.

    Attributes
    ----------
    rows
        How many were checked.
    problems
        The first bad row first; none where everything agrees.
    compared
        Devices that were reached, and hold the same.
    unreached
        Devices that could not be asked.
    """

    rows: int
    problems: list[LedgerProblem] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class GiveRequest:
    """To whom, how much of this device, and what for."""

    name: Annotated[str, Limits(1, 200), Option("a contact", metavar="NAME")]
    amount: Annotated[str, Limits(1, 20), Option("minutes or hours of this device, such as 30m or 2h", metavar="TIME")]


@dataclass(frozen=True, kw_only=True)
class Given:
    """A gift: to whom, seconds of this device, and credits."""

    peer: str
    seconds: float
    credits: int


balance = Verb("balance", "show what you and your contacts have had of each other", "GET", "balance", Nothing, Balances)
ledger = Verb("ledger", "show what was bought, sold and given", "GET", "ledger", LedgerRequest, LedgerRows)
verify = Verb("verify_ledger", "check every row of the ledger", "POST", "ledger/verify", Nothing, Verified, LONG)
give = Verb("give", "let a contact have time of this device", "POST", "gifts", GiveRequest, Given)
