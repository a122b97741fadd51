"""Strangers have one allowance for all of them, however many names they have."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from support.effort import examples

from ainet.economy.balance import DAY_MS, Allowance, Balance
from ainet.economy.credits import Rate
from ainet.economy.order import Order
from ainet.economy.session import Seller
from ainet.economy.shared_allowance import SharedAllowance, had_beyond

ALLOWANCE = Allowance(5_000, 5_000, 5_000)
NOTHING = Allowance(0, 0, 0)
RATE = Rate(parameters=3, price=1000)


class Crowd(RuleBasedStateMachine):
    """Names without number, who buy, pay or do not, give work, hang up, and come back under other names."""

    def __init__(self) -> None:
        super().__init__()
        self.moment = self.began = 1_000
        self.balances: dict[int, Balance] = {}
        self.sellers: dict[int, Seller] = {}
        self.shared = SharedAllowance(ALLOWANCE, Balance(moment=self.moment), {})
        self.numbers = 0
        self.gave = 0  # work of strangers, for which this device signed

    def seller(self, name: int) -> Seller:
        if name not in self.sellers:
            made = self.sellers[name] = Seller(self.balances.get(name, Balance()), NOTHING)
            made.share(self.shared, name)
        return self.sellers[name]

    @rule(name=st.integers(0, 5), prompt=st.integers(1, 300), most=st.integers(1, 300), part=st.integers(0, 100))
    def buy(self, name: int, prompt: int, most: int, part: int) -> None:
        seller = self.seller(name)
        self.numbers += 1
        order = Order(self.numbers.to_bytes(16, "big"), RATE, prompt, most)
        before = self.shared.left(self.moment)
        if order.whole > seller.left(self.moment):
            return
        seller.sell(order, self.moment)
        assert self.shared.left(self.moment) <= before
        for _ in range(most * part // 100):
            seller.acknowledge(seller.charged, 0, order.session, self.moment)
            if not seller.room(order.session):
                break
            seller.generated(order.session, 1, self.moment)

    @rule(name=st.integers(0, 5), pays=st.booleans())
    def finish(self, name: int, pays: bool) -> None:
        seller = self.seller(name)
        for session in list(seller.sales):
            sale = seller.end(session, self.moment)
            if pays:
                seller.acknowledge(seller.charged, 0, session, self.moment)
            else:
                seller.write_off(sale, self.moment)

    @rule(name=st.integers(0, 5), work=st.integers(1, 3_000))
    def give(self, name: int, work: int) -> None:
        seller = self.seller(name)
        self.gave += work
        seller.balance = Balance(**{**vars(seller.balance), "signed": seller.balance.signed + work})

    @rule(name=st.integers(0, 5))
    def hang_up(self, name: int) -> None:
        if name in self.sellers:
            seller = self.sellers.pop(name)
            seller.cut(self.moment)
            self.balances[name] = seller.balance
            self.shared.close(name)

    @rule(milliseconds=st.integers(-DAY_MS, DAY_MS))
    def wait(self, milliseconds: int) -> None:
        self.moment = max(self.moment + milliseconds, 0)

    @rule()
    def restart(self) -> None:
        for name in list(self.sellers):
            self.hang_up(name)
        self.shared.left(self.moment)
        kept = Balance(leaked=self.shared.balance.leaked, moment=self.shared.balance.moment)
        self.shared = SharedAllowance(ALLOWANCE, kept, had_beyond(self.balances.items()))

    @invariant()
    def holds(self) -> None:
        balances = self.balances | {name: seller.balance for name, seller in self.sellers.items()}
        had = sum(one.acknowledged + one.written_off for one in balances.values())
        self.latest = max(getattr(self, "latest", self.moment), self.moment)
        refilled = (self.latest - self.began) * ALLOWANCE.daily // DAY_MS
        assert had <= ALLOWANCE.saved + refilled + self.gave
        assert 0 <= self.shared.left(self.moment) <= ALLOWANCE.saved


def test_all_together_get_no_more_than_the_allowance_and_what_they_gave():
    run_state_machine_as_test(
        Crowd,
        settings=settings(
            max_examples=examples(300), stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_a_thousand_names_get_as_much_as_one():
    shared = SharedAllowance(ALLOWANCE, Balance(moment=1), {})
    had = 0
    for name in range(1000):
        seller = Seller(Balance(), NOTHING)
        seller.share(shared, name)
        order = Order(name.to_bytes(16, "big"), RATE, 10, 1)
        if order.whole <= seller.left(1):
            seller.sell(order, 1)
            seller.acknowledge(seller.charged, 0, order.session, 1)
            seller.generated(order.session, 1, 1)
            seller.acknowledge(seller.charged, 0, order.session, 1)
            seller.end(order.session, 1)
            had += order.whole
        shared.close(name)
    assert ALLOWANCE.saved - RATE.cost(10, 1) < had <= ALLOWANCE.saved


def test_what_a_stranger_gave_is_its_own():
    shared = SharedAllowance(ALLOWANCE, Balance(moment=1), {})
    giver, other = Seller(Balance(signed=700), NOTHING), Seller(Balance(), NOTHING)
    giver.share(shared, 1)
    other.share(shared, 2)
    assert (giver.left(1), other.left(1)) == (ALLOWANCE.saved + 700, ALLOWANCE.saved)


def test_a_prompt_that_was_read_counts_whole_also_where_its_asker_hangs_up():
    shared = SharedAllowance(ALLOWANCE, Balance(moment=1), {})
    seller = Seller(Balance(), NOTHING)
    seller.share(shared, 1)
    order = Order(bytes(16), RATE, 61, 10)
    seller.sell(order, 1)
    seller.acknowledge(order.half, 0, order.session, 1)
    seller.cut(1)
    assert ALLOWANCE.saved - shared.left(1) == RATE.cost(61, 0)


def test_what_a_stranger_says_that_it_had_uses_up_nothing():
    shared = SharedAllowance(ALLOWANCE, Balance(moment=1), {})
    seller = Seller(Balance(), NOTHING)
    seller.share(shared, 1)
    seller.acknowledge(10**12, 0, bytes(16), 1)
    assert shared.left(1) == ALLOWANCE.saved
    assert seller.left(1) == ALLOWANCE.saved
