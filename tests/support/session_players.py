"""Buyers and sellers of sessions as Hypothesis plays them: honest ones, and cheats."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ainet.economy.voucher import Kind
from support.effort import examples
from support.market_pair import ALLOWANCE, EVE, LONGEST, RATE, BuyerDisk, Pair, raw, voucher

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

    @rule(prompt=PROMPTS, times=st.integers(1, 8))
    def call_it_a_gift(self, prompt: int, times: int) -> None:
        """What is called a gift does not count as had: it must not pay for anything."""
        pair = self.pair
        pair.meet()
        pair.order(self.session(), prompt, 300)
        pair.buyer.purchases.clear()  # and from now on signs for nothing that comes
        for _ in range(times):
            self.go_on(100)
            amount = pair.seller.unacknowledged
            if not amount or not pair.is_linked:
                break
            total = max(pair.buyer.signed, pair.seller.balance.acknowledged) + amount
            gifts = pair.buyer.gifts + amount
            high = voucher(total, gifts=gifts, kind=Kind.GIFT)
            pair.buyer.shown(total, gifts)
            pair.buyer_disk = BuyerDisk(total, gifts, high)
            pair.gifts += amount
            pair.hear(high)


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
