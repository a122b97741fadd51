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
        What it may have of this device now: what it is owed, and what is left of its allowance.
    had, gave, left
        The same in credits.
    lost
        Credits that it had and did not acknowledge.
    gifts_given, gifts_got
        The part of what was signed for that is gifts and bonuses.
    forgiven
        Credits that it had and need not give back, as time went by.
    most_s
        How much of this device it could save up.
    """

    peer: str
    had_s: float
    gave_s: float
    left_s: float
    had: int
    gave: int
    left: int
    lost: int
    gifts_given: int = 0
    gifts_got: int = 0
    forgiven: int = 0
    most_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Balances:
    """The accounts with all contacts.

    Attributes
    ----------
    strangers_left_s, strangers_s
        What strangers may have now, and in a day, all together (s of this device); 0 where nothing is sold to them.
    problem
        What is wrong with the ledger, if anything is.
    """

    accounts: list[PairBalance]
    strangers_left_s: float = 0.0
    strangers_s: float = 0.0
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
    note
        What a gift was for.
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
    note: str = ""
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
class BalanceRequest:
    """Whether the sums are explained."""

    why: Annotated[bool, Option("say how each sum comes about")] = False


@dataclass(frozen=True)
class GiveRequest:
    """To whom, how much of this device, and what for; the last is kept here, and not told."""

    name: Annotated[str, Limits(1, 200), Option("a contact", metavar="NAME")]
    amount: Annotated[str, Limits(1, 20), Option("minutes or hours of this device, such as 30m or 2h", metavar="TIME")]
    note: Annotated[str, Limits(0, 200), Option("what for; kept in your ledger", metavar="TEXT", flag="for")] = ""


@dataclass(frozen=True, kw_only=True)
class Given:
    """A gift: to whom, seconds of this device, and credits."""

    peer: str
    seconds: float
    credits: int


balance = Verb(
    "balance", "show what you and your contacts have had of each other", "GET", "balance", BalanceRequest, Balances
)
ledger = Verb("ledger", "show what was bought, sold and given", "GET", "ledger", LedgerRequest, LedgerRows)
verify = Verb("verify_ledger", "check every row of the ledger", "POST", "ledger/verify", Nothing, Verified, LONG)
give = Verb("give", "let a contact have time of this device", "POST", "gifts", GiveRequest, Given)
