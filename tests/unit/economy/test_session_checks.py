"""Every check of sessions is needed: with one taken out, an honest side loses more than the rules allow."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from support import market_pair
from support.market_pair import ALLOWANCE, RATE
from support.session_players import RUNS, CheatingBuyer, CheatingSeller, Honest

from ainet.economy import voucher as vouchers
from ainet.economy.order import Order
from ainet.economy.sale import Sale
from ainet.economy.session import Buyer, Seller

if TYPE_CHECKING:
    from collections.abc import Callable


def _without_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Seller, "window", property(lambda _: 10**9))


def _without_signatures(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(vouchers, "verifies", lambda *_: True)


def _without_payee(patch: pytest.MonkeyPatch) -> None:
    """What is for somebody else is taken as one's own."""
    patch.setattr(market_pair, "read", lambda given, *_: msgspec.msgpack.decode(given.body, type=vouchers.Body))


def _without_growth(patch: pytest.MonkeyPatch) -> None:
    """A lower total is taken for news."""
    acknowledge = Seller.acknowledge

    def take(seller: Seller, total: int, gifts: int, session: bytes, moment: int) -> Any:
        return acknowledge(seller, seller.balance.acknowledged + total, gifts, session, moment)

    patch.setattr(Seller, "acknowledge", take)


def _without_prompt_before_work(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sale, "due", 0, raising=False)
    patch.setattr(
        Sale, "__setattr__", lambda one, name, value: object.__setattr__(one, name, 0 if name == "due" else value)
    )


def _without_prompt_length(patch: pytest.MonkeyPatch) -> None:
    sold = Buyer.sold
    patch.setattr(
        Buyer,
        "sold",
        lambda one, session, prompt, price, moment: sold(one, session, _lied(one, session, prompt), price, moment),
    )


def _lied(buyer: Buyer, session: bytes, prompt: int) -> int:
    """Believe the seller's count."""
    purchase = buyer.purchases.get(session)
    if purchase is not None:
        purchase.order = purchase.order._replace(prompt=prompt)
    return prompt


def _without_price(patch: pytest.MonkeyPatch) -> None:
    def sold(one: Buyer, session: bytes, prompt: int, price: int, moment: int) -> Any:
        purchase = one.purchases[session]
        purchase.order = purchase.order._replace(rate=RATE._replace(price=price))
        return Buyer_sold(one, session, prompt, price, moment)

    patch.setattr(Buyer, "sold", sold)


def _without_order(patch: pytest.MonkeyPatch) -> None:
    said = Buyer.said
    patch.setattr(
        Buyer, "said", lambda one, session, _, n, moment: said(one, session, one.purchases[session].received, n, moment)
    )


def _without_most(patch: pytest.MonkeyPatch) -> None:
    def so_far(order: Order, generated: int) -> int:
        return order.rate.cost(order.prompt, generated) if generated else order.half

    said = Buyer.said

    def take(one: Buyer, session: bytes, index: int, n: int, moment: int) -> Any:
        purchase = one.purchases[session]
        purchase.order = purchase.order._replace(most=1_000_000)
        return said(one, session, index, n, moment)

    patch.setattr(Buyer, "said", take)
    patch.setattr(Order, "so_far", so_far)


def _without_reserving(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Seller, "left", lambda seller, moment: max(seller.balance.at(moment, ALLOWANCE).left(ALLOWANCE), 0))


def _without_writing_off(patch: pytest.MonkeyPatch) -> None:
    cut = Seller.cut

    def forget(seller: Seller, moment: int) -> Any:
        written_off = seller.balance.written_off
        found = cut(seller, moment)
        seller.balance = replace(seller.balance, written_off=written_off)
        return found

    patch.setattr(Seller, "cut", forget)


def _without_raising(patch: pytest.MonkeyPatch) -> None:
    """More than was charged is taken for a payment ahead."""
    acknowledge = Seller.acknowledge

    def take(seller: Seller, total: int, gifts: int, session: bytes, moment: int) -> Any:
        charged = seller.charged
        did = acknowledge(seller, total, gifts, session, moment)
        seller.charged = min(seller.charged, max(charged, 0))
        return did

    patch.setattr(Seller, "acknowledge", take)


def _without_showing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Buyer, "shown", lambda *_: None)


Buyer_sold = Buyer.sold
MUTANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], type[Honest]]] = {
    "window": (_without_window, CheatingBuyer),
    "signature": (_without_signatures, CheatingBuyer),
    "payee": (_without_payee, CheatingBuyer),
    "growth": (_without_growth, CheatingBuyer),
    "prompt before work": (_without_prompt_before_work, CheatingBuyer),
    "prompt length": (_without_prompt_length, CheatingSeller),
    "price": (_without_price, CheatingSeller),
    "order of tokens": (_without_order, CheatingSeller),
    "most tokens": (_without_most, CheatingSeller),
    "reserving": (_without_reserving, CheatingBuyer),
    "writing off": (_without_writing_off, CheatingBuyer),
    "nobody pays ahead": (_without_raising, CheatingBuyer),
    "showing": (_without_showing, Honest),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("check", MUTANTS)
def test_every_check_is_needed(check, monkeypatch):
    mutate, machine = MUTANTS[check]
    mutate(monkeypatch)
    quick = settings(RUNS, max_examples=500, phases=[Phase.generate], report_multiple_bugs=False, database=None)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=quick)
