"""Selling to, and buying from, the devices of other owners."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ainet.api.limits import Limits
from ainet.api.verb import LONG, Nothing, Option, Verb

Text = Annotated[str, Limits(1, 200)]


@dataclass(frozen=True, kw_only=True)
class SoldModel:
    """A model that this device sells, at which price now (1: minute for minute), and why."""

    name: str
    price: float
    reason: str
    tokens_per_s: float


@dataclass(frozen=True, kw_only=True)
class SellingState:
    """What this device sells.

    Attributes
    ----------
    is_on
        Whether it sells anything.
    max_load
        The part of the time in which sessions of others may run.
    hours
        The hours between which it sells, ``always`` for all.
    price
        ``auto``, or the price that the owner has named.
    allow_s
        Seconds of this device that each contact may have in a day beyond what it gave.
    strangers_s
        Seconds of this device that all strangers together may have in a day; 0: it sells nothing to them.
    sessions, waiting
        Sessions of others that go on, and that wait for a place.
    note
        What the owner should know of it; empty for nothing.
    problem
        Why nothing is sold although it was; empty for no reason.
    """

    is_on: bool
    models: list[SoldModel] = field(default_factory=list)
    max_load: float = 0.0
    hours: str = "always"
    price: str = "auto"
    allow_s: float = 0.0
    strangers_s: float = 0.0
    sessions: int = 0
    waiting: int = 0
    note: str = ""
    problem: str = ""


@dataclass(frozen=True)
class SellRequest:
    """What is sold, and on what terms, in words as they are typed."""

    models: list[str] = field(default_factory=list)
    max_load: str = "50%"
    hours: str = "always"
    price: str = "auto"
    allow: str = "30m"
    strangers: bool = False


@dataclass(frozen=True, kw_only=True)
class OfferRow:
    """An offer of another owner's device.

    Attributes
    ----------
    price, reason
        By what the work is multiplied, and why.
    starts_in_s
        When an answer would begin.
    tokens_per_s
        The speed of its answers, as it says.
    window
        Most tokens of a question and its answer.
    trust, trust_reason
        How far it is trusted here, from 0 to 1, and why: sessions that came to their end, and checks.
    left_s, daily_s
        What may be had of it now, and in a day, in its own time; 0 where it does not say how fast it is.
    """

    seller: str
    model: str
    price: float
    reason: str
    starts_in_s: float
    tokens_per_s: float
    window: int
    trust: float
    trust_reason: str
    left_s: float
    daily_s: float


@dataclass(frozen=True)
class NoOffer:
    """A device that sells nothing now, and why."""

    seller: str
    reason: str


@dataclass(frozen=True)
class Offers:
    """What contacts sell now, and strangers that were asked."""

    offers: list[OfferRow]
    others: list[NoOffer]


@dataclass(frozen=True)
class OffersRequest:
    """Whose offers."""

    seller: Annotated[
        str, Option("a contact's name, or a stranger's address (default: anyone)", metavar="NAME", flag="from")
    ] = "anyone"
    why: Annotated[bool, Option("say why each is trusted so far")] = False
    strangers: Annotated[bool, Option("also ask devices on the local network of which nothing is known")] = False


sell = Verb("sell", "let contacts have answers of this device", "POST", "selling", SellRequest, SellingState, LONG)
stop_selling = Verb("stop_selling", "sell nothing more", "DELETE", "selling", Nothing, SellingState)
selling = Verb("selling", "show what this device sells", "GET", "selling", Nothing, SellingState)
offers = Verb("offers", "show what contacts sell now, and why at that price", "GET", "offers", OffersRequest, Offers)
