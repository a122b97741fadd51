"""Sessions: what an honest seller and an honest buyer can lose, whoever they deal with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from support import market_pair
from support.effort import examples
from support.market_pair import ALLOWANCE, EVE, LONGEST, RATE, BuyerDisk, Pair, raw, voucher

from ainet.economy import voucher as vouchers
from ainet.economy.balance import Balance
from ainet.economy.session import PATIENCE, VOUCHER_EVERY, Buyer, Order, Sale, Seller

if TYPE_CHECKING:
    from collections.abc import Callable

PROMPTS = st.integers(1, LONGEST)
TOKENS = st.integers(1, 300)
PART = st.integers(0, 100)


class Honest(RuleBasedStateMachine):
    """Two honest devices whose links, processes and disks are not."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.numbers = 0

    def session(self) -> bytes:
        self.numbers += 1
        return self.numbers.to_bytes(16, "big")

    @rule(prompt=PROMPTS, most=TOKENS, part=PART, ends=st.booleans())
    def answer(self, prompt: int, most: int, part: int, ends: bool) -> None:
        """A session up to some token."""
        self.pair.meet()
        session = self.session()
        if self.pair.order(session, prompt, most):
            self.pair.generate(session, most * part // 100)
            if ends:
                self.pair.finish(session)

    @rule(n=TOKENS)
    def go_on(self, n: int) -> None:
        """More tokens of all sessions, in turns."""
        for session in list(self.pair.seller.sales):
            self.pair.generate(session, n)

    @rule()
    def finish(self) -> None:
        for session in list(self.pair.seller.sales):
            self.pair.finish(session)

    @rule(amount=st.integers(1, 5000))
    def give(self, amount: int) -> None:
        self.pair.give(amount)

    @rule(amount=st.integers(1, 50_000))
    def return_work(self, amount: int) -> None:
        self.pair.return_work(amount)

    @rule(milliseconds=st.integers(0, 200_000_000))
    def wait(self, milliseconds: int) -> None:
        self.pair.wait(milliseconds)

    @rule()
    def cut(self) -> None:
        self.pair.cut()

    @rule()
    def back_up(self) -> None:
        self.pair.back_up()

    @rule()
    def kill_seller(self) -> None:
        self.pair.restart_seller()
        self.agree()

    @rule()
    def kill_buyer(self) -> None:
        self.pair.restart_buyer()
        self.agree()

    @rule(which=st.integers(0, 20))
    def restore_seller(self, which: int) -> None:
        self.pair.restart_seller(self.pair.backups[which % len(self.pair.backups)][0])
        self.agree()

    @rule(which=st.integers(0, 20))
    def restore_buyer(self, which: int) -> None:
        self.pair.restart_buyer(self.pair.backups[which % len(self.pair.backups)][1])
        self.agree()

    def agree(self) -> None:
        """After a crash or a backup both agree as soon as they have met."""
        if self.pair.pays:
            self.pair.meet()
            self.pair.check_agreed()

    @invariant()
    def holds(self) -> None:
        self.pair.check()


class CheatingBuyer(Honest):
    """Ben does everything to pay less."""

    @rule(pays=st.booleans())
    def pay(self, pays: bool) -> None:
        self.pair.pays = pays

    @rule(prompt=PROMPTS, most=TOKENS, times=st.integers(1, 8), part=PART)
    def hang_up_again_and_again(self, prompt: int, most: int, times: int, part: int) -> None:
        for _ in range(times):
            self.answer(prompt, most, part, ends=False)
            self.pair.cut()

    @rule(prompt=PROMPTS, times=st.integers(1, 8))
    def take_a_window_and_hang_up(self, prompt: int, times: int) -> None:
        for _ in range(times):
            self.answer(prompt, 100, 0, ends=False)
            self.pair.pays = False
            self.go_on(100)
            self.pair.cut()
            self.pair.restart_buyer(BuyerDisk())
            self.pair.meet()  # and hears what he has paid
            self.pair.pays = True

    @rule(prompt=PROMPTS, most=TOKENS, many=st.integers(2, 10))
    def many_sessions(self, prompt: int, most: int, many: int) -> None:
        self.pair.meet()
        for _ in range(many):
            self.pair.order(self.session(), prompt, most)
        self.go_on(most)

    @rule(prompt=PROMPTS, many=st.integers(2, 10))
    def many_sessions_unpaid(self, prompt: int, many: int) -> None:
        self.pair.meet()
        for _ in range(many):
            self.pair.order(self.session(), prompt, 70)
        self.pair.pays = False
        self.go_on(70)
        self.pair.pays = True

    @rule(prompt=PROMPTS)
    def prompt_unpaid(self, prompt: int) -> None:
        self.pair.pays = False
        self.answer(prompt, 1, 100, ends=True)
        self.pair.pays = True

    @rule(amount=st.integers(1, 100_000))
    def replay_and_forge(self, amount: int) -> None:
        pair = self.pair
        pair.cut()
        pair.pays = True
        pair.meet()
        before = pair.seller.left(pair.moment)
        known = pair.seller.balance.acknowledged
        others = {"payee": raw(EVE)}, {"payer": raw(EVE)}
        for fields in others:
            pair.meet()
            pair.hear(voucher(known + amount, **fields))
            assert pair.seller.balance.acknowledged == known
        pair.meet()
        known = pair.seller.balance.acknowledged
        for one in [sent for sent in pair.sent if msgspec.msgpack.decode(sent.body)[2] <= known]:
            pair.hear(one)
            assert pair.seller.balance.acknowledged == known
        pair.hear(voucher(known + amount, by=EVE))
        assert pair.seller.balance.acknowledged == known
        assert not pair.is_linked
        assert pair.seller.left(pair.moment) <= max(before, ALLOWANCE.cap(pair.gave) + pair.gave)

    @rule(amount=st.integers(1, 100_000))
    def pay_ahead(self, amount: int) -> None:
        """A voucher that is too high buys nothing."""
        pair = self.pair
        pair.meet()
        before = pair.seller.left(pair.moment)
        total = max(pair.buyer.signed, pair.seller.balance.acknowledged) + amount
        high = voucher(total, gifts=pair.buyer.gifts)
        pair.buyer.shown(total, pair.buyer.gifts)
        pair.buyer_disk = BuyerDisk(total, pair.buyer.gifts, high)
        pair.gifts += amount  # Ben's own loss
        pair.hear(high)
        assert pair.seller.left(pair.moment) <= before


class CheatingSeller(Honest):
    """Ana does everything to be paid more."""

    def __init__(self) -> None:
        super().__init__()
        self.pair.is_seller_honest = False

    @rule(prompt=PROMPTS, more=st.integers(1, 200), is_price=st.booleans())
    def inflate(self, prompt: int, more: int, is_price: bool) -> None:
        self.pair.meet()
        session = self.session()
        lie: dict[str, Any] = {"price": RATE.price + more} if is_price else {"counted": prompt + more}
        if self.pair.order(session, prompt, 50, **lie):
            self.pair.generate(session, 20)
            self.pair.finish(session)

    @rule(prompt=PROMPTS, skips=st.integers(-20, 20).filter(bool))
    def skip_tokens(self, prompt: int, skips: int) -> None:
        self.pair.meet()
        session = self.session()
        if self.pair.order(session, prompt, 100):
            self.pair.generate(session, 30)
            self.pair.generate(session, 40, skips=skips)
            self.pair.finish(session)

    @rule(prompt=PROMPTS, more=st.integers(1, 100))
    def say_too_much(self, prompt: int, more: int) -> None:
        pair = self.pair
        pair.meet()
        session = self.session()
        if pair.order(session, prompt, 30):
            pair.generate(session, 30)
            pair.to_buyer.append(("said", session, pair.tokens.get(session, 0), more, pair.moment))
            pair.deliver()
            pair.to_buyer.append(("sold", session, prompt, RATE.price, pair.moment))
            pair.deliver()
            pair.finish(session, more=more)

    @rule(prompt=PROMPTS, times=st.integers(1, 8))
    def take_half_and_hang_up(self, prompt: int, times: int) -> None:
        for _ in range(times):
            self.answer(prompt, 10, 0, ends=False)
            self.pair.cut()


RUNS = settings(
    max_examples=examples(500), stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.timeout(600)  # thousands of signatures
@pytest.mark.parametrize("machine", [Honest, CheatingBuyer, CheatingSeller])
def test_nobody_loses_more_than_the_rules_allow(machine):
    run_state_machine_as_test(machine, settings=RUNS)


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


# Single rules, by example.


def test_an_answer_is_paid_as_it_streams():
    pair = Pair()
    pair.meet()
    assert pair.order(b"s" * 16, 101, 50)
    assert pair.seller.balance.acknowledged == RATE.cost(50, 0)
    assert pair.generate(b"s" * 16, 50, at_once=1) == 50
    pair.finish(b"s" * 16)
    pair.check_agreed()
    assert pair.buyer.signed == RATE.cost(101, 50)
    # Half the prompt, the first token with the rest, every 16 from then on, and the end.
    assert len(pair.sent) == 1 + 1 + (50 - 1) // VOUCHER_EVERY + 1


def test_an_answer_stops_when_it_is_not_paid_and_ends_when_that_stays_so():
    pair = Pair()
    pair.meet()
    assert pair.order(b"s" * 16, 10, 200)
    pair.pays = False
    assert 0 < pair.generate(b"s" * 16, 200) < 80
    assert pair.seller.tick(pair.moment + PATIENCE - 1) == []
    assert [one.why for one in pair.seller.tick(pair.moment + PATIENCE)] == ["unpaid"]


def test_a_silent_seller_is_noticed():
    buyer = Buyer()
    buyer.buy(Order(b"s" * 16, RATE, 10, 10), 0)
    assert buyer.tick(PATIENCE - 1) == []
    assert buyer.tick(PATIENCE) == [b"s" * 16]


def test_a_gift_is_owed_and_does_not_lessen_what_its_giver_may_have():
    pair = Pair()
    pair.meet()
    before = pair.seller.left(pair.moment)
    pair.give(500)
    pair.check_agreed()
    assert pair.seller.balance.acknowledged_gifts == 500
    assert pair.seller.left(pair.moment) == before


def test_what_is_acknowledged_late_is_not_written_off():
    pair = Pair()
    pair.meet()
    before = pair.seller.left(pair.moment)
    pair.order(b"s" * 16, 10, 20)
    pair.generate(b"s" * 16, 15)
    pair.pays = False
    pair.cut()
    assert pair.seller.balance.written_off > 0
    pair.pays = True
    pair.meet()
    pair.check_agreed()
    assert pair.seller.balance.written_off == 0
    assert pair.seller.left(pair.moment) == before - pair.buyer.signed


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=8), st.randoms())
def test_vouchers_merge_in_any_order_and_any_number(totals, chosen):
    ordered = Seller(Balance(), ALLOWANCE)
    for total, gifts in totals:
        ordered.acknowledge(total, min(gifts, total), bytes(16), 0)
    shuffled = Seller(Balance(), ALLOWANCE)
    again = totals * 2
    chosen.shuffle(again)
    for total, gifts in again:
        shuffled.acknowledge(total, min(gifts, total), bytes(16), 0)
    assert shuffled.balance.acknowledged == ordered.balance.acknowledged == max([0, *(total for total, _ in totals)])
    assert shuffled.charged == ordered.charged
