"""Owners of simulated devices, and what they give each other: balances and allowances are those of `ainet.economy`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ainet.economy.balance import Allowance, Balance
from ainet.economy.credits import Rate

#: Active parameters (millions) of the model that everybody asks for, and tokens of a question and of its answer.
PARAMETERS, PROMPT, ANSWER = 1000, 300, 400
RATE = Rate(PARAMETERS)
ONE = RATE.cost(PROMPT, ANSWER)
#: Tokens of answers a second, of the weakest and of the strongest device.
WEAKEST, STRONGEST = 4.0, 40.0


def allowance(speed: float, hours: float, saved: float, grows_to: float = 24.0) -> Allowance:
    """Return an allowance of hours of a device's work a day; `speed` in tokens of answers a second."""
    an_hour = 3600 * speed * ONE / ANSWER
    return Allowance(round(hours * an_hour), round(saved * an_hour), round(grows_to * an_hour))


@dataclass
class Owner:
    """An owner and a device."""

    number: int
    speed: float
    gives: bool = True
    #: By the number of the other owner: what that one may have here.
    balances: dict[int, Balance] = field(default_factory=dict)

    def balance(self, other: int, moment: int, given: Allowance) -> Balance:
        known = self.balances.get(other) or Balance.new(moment, given)
        self.balances[other] = known = known.at(moment, given)
        return known


def serve(seller: Owner, buyer: Owner, cost: int) -> None:
    """Note an answer on both sides of the account."""
    there = seller.balances[buyer.number]
    seller.balances[buyer.number] = replace(there, acknowledged=there.acknowledged + cost)
    here = buyer.balances.get(seller.number) or Balance()
    buyer.balances[seller.number] = replace(here, signed=here.signed + cost)


def owners(n: int) -> list[Owner]:
    """Return owners whose devices are unequal."""
    return [Owner(i, WEAKEST * (STRONGEST / WEAKEST) ** (i / (n - 1))) for i in range(n)]
