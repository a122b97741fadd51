"""Whom to buy from: the cheapest, where time and trust have their price."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ainet.economy.credits import Rate

#: Waiting for this long (s) is worth as much as the answer.
WORTH = 30.0
#: Sellers that are asked at once.
MOST_ASKED = 12


class SellerQuote(NamedTuple):
    """What a seller says when it is asked for its price.

    Attributes
    ----------
    seller
        Node id.
    rate
        What tokens cost.
    starts_in
        Seconds until the session would begin.
    tokens_per_s
        The speed of answers, measured.
    left
        Credits that it would let this device have.
    trust
        How far it is trusted here, from 0 to 1.
    """

    seller: str
    rate: Rate
    starts_in: float
    tokens_per_s: float
    left: int
    trust: float = 1.0


class Choice(NamedTuple):
    """A seller, what an answer costs there at most, and when it would be there (s)."""

    quote: SellerQuote
    cost: int
    seconds: float

    @property
    def burden(self) -> float:
        """What decides: credits, with time and distrust as credits, too."""
        return self.cost * (1 + self.seconds / WORTH) / self.quote.trust


def choices(quotes: Iterable[SellerQuote], prompt: int, most: int, *, budget: int | None = None) -> list[Choice]:
    """Return the sellers that would do, the best one first.

    Parameters
    ----------
    prompt, most
        Tokens of the prompt, and most tokens of the answer.
    budget
        The most that the answer may cost; None: what the sellers give.
    """
    found = []
    for quote in quotes:
        cost = quote.rate.cost(prompt, most)
        if quote.trust > 0 and quote.tokens_per_s > 0 and cost <= quote.left and (budget is None or cost <= budget):
            found.append(Choice(quote, cost, max(quote.starts_in, 0.0) + most / quote.tokens_per_s))
    return sorted(found, key=lambda one: (one.burden, one.quote.seller))
