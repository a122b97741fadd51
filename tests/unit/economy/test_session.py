"""Sessions: what an honest seller and an honest buyer can lose, whoever they deal with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from support.market_pair import ALLOWANCE, RATE, Pair, voucher
from support.session_players import RUNS, CheatingBuyer, CheatingSeller, Honest

from ainet.economy.balance import Balance
from ainet.economy.order import PATIENCE, VOUCHER_EVERY, Order
from ainet.economy.session import Buyer, Seller
from ainet.economy.voucher import Kind


@pytest.mark.timeout(600)  # thousands of signatures
@pytest.mark.parametrize("machine", [Honest, CheatingBuyer, CheatingSeller])
def test_nobody_loses_more_than_the_rules_allow(machine):
    run_state_machine_as_test(machine, settings=RUNS)


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


def test_what_is_called_a_gift_pays_for_nothing():
    pair = Pair()
    pair.meet()
    session = bytes(16)
    assert pair.order(session, 10, 200)
    pair.pays = False
    pair.generate(session, 200)
    open_, left = pair.seller.unacknowledged, pair.seller.left(pair.moment)
    assert open_
    pair.hear(voucher(pair.seller.balance.acknowledged + open_, gifts=open_, kind=Kind.GIFT))
    assert (pair.seller.unacknowledged, pair.seller.left(pair.moment)) == (open_, left)
    assert pair.seller.room(session) == 0


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


def test_what_a_backup_has_forgotten_may_be_had_once_more_and_nothing_beyond():
    """A buyer that pays no more shows nothing either; without members to ask, its seller begins at the backup."""
    state = CheatingBuyer()
    state.answer(prompt=1, most=177, part=100, ends=False)
    state.pay(pays=False)
    state.restore_seller(which=0)
    state.take_a_window_and_hang_up(prompt=1, times=3)
    state.holds()
    assert 0 < state.pair.forgotten <= sum(state.pair.did.values())
    state.teardown()


def test_what_an_interrupted_session_left_unpaid_does_not_hold_up_the_next_one():
    """The last tokens before an interruption were charged and never came: nobody will acknowledge them."""
    seller = Seller(Balance.new(0, ALLOWANCE), ALLOWANCE)
    first, second, third = (Order(bytes([n]) * 16, RATE, 10, 100) for n in range(3))
    seller.sell(first, 0)
    seller.acknowledge(first.half, 0, first.session, 0)
    seller.generated(first.session, 1, 0)
    paid = seller.charged
    seller.acknowledge(paid, 0, first.session, 0)
    seller.generated(first.session, 5, 0)
    left = seller.unacknowledged
    seller.sell(second, 0)  # while the first one goes on, all that is charged comes before the prompt is read
    seller.end(first.session, 0)
    assert seller.acknowledge(paid + second.half - 1, 0, second.session, 0) == []
    assert [one.what for one in seller.acknowledge(paid + second.half, 0, second.session, 0)] == ["read prompt"]
    seller.sell(third, 0)
    # What is acknowledged late is no pay for another prompt.
    assert seller.acknowledge(paid + second.half + left, 0, first.session, 0) == []
    did = seller.acknowledge(paid + second.half + left + third.half, 0, third.session, 0)
    assert [(one.what, one.session) for one in did] == [("read prompt", third.session)]
