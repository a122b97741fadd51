"""Attacks on the rules between owners, by their names; those on messages and disks are played by `session_players`."""

from __future__ import annotations

import random
import statistics

import pytest
from support.market_pair import ALLOWANCE, BEN, RATE, Pair, voucher

from ainet.economy.balance import DAY_MS, Balance
from ainet.economy.checks import ONE_IN, is_due, lies
from ainet.economy.choice import SellerQuote, choices
from ainet.economy.contribution import Asker, ContributionScore, Record, order_of_service
from ainet.economy.credits import Rate
from ainet.economy.order import PATIENCE, Order
from ainet.economy.session import Buyer
from ainet.economy.voucher import Kind

#: How often a check finds a lie, and an honest answer wrong (`benchmarks/cheats.py`).
FOUND, FALSE_ALARM = 0.99, 0.005


def session(n):
    return n.to_bytes(16, "big")


def answers_until_found(is_lie, seed, most=20_000):
    """Return after how many answers a seller is not trusted any more; None: it still is."""
    chance, passed = random.Random(seed), []
    for n in range(1, most + 1):
        if is_due(len(passed), failed_last=passed[-1:] == [False], chance=chance.randrange(ONE_IN)):
            passed.append(chance.random() >= (FOUND if is_lie(n, chance) else FALSE_ALARM))
            if lies(passed):
                return n
    return None


def test_serving_another_model_from_the_first_answer_on():
    assert max(answers_until_found(lambda *_: True, seed) for seed in range(50)) <= 4


def test_building_trust_and_then_cheating():
    honest = 500
    found = [answers_until_found(lambda n, _: n > honest, seed) for seed in range(50)]
    assert statistics.mean(found) - honest < 2 * ONE_IN


def test_cheating_on_one_answer_in_ten():
    found = [answers_until_found(lambda _, chance: chance.random() < 0.1, seed) for seed in range(50)]
    assert None not in found
    assert statistics.mean(found) < 1_500


def test_an_honest_seller_keeps_its_name():
    found = [answers_until_found(lambda *_: False, seed, most=5_000) for seed in range(100)]
    assert sum(one is not None for one in found) <= 1


def test_one_token_answers():
    """What a question costs does not depend on how short its answer is: it cannot be asked for nothing."""
    pair = Pair()
    pair.meet()
    pair.pays = False
    for n in range(1, 1000):
        pair.order(session(n), 100, 1)
        pair.generate(session(n), 1)
        pair.finish(session(n))
        pair.check()
    assert not sum(pair.did.values())  # nothing is read before half of it is acknowledged
    pair.cut()
    pair.meet()
    assert pair.seller.left(pair.moment) < ALLOWANCE.cap(0)


def test_many_sessions_share_one_window():
    pair = Pair()
    pair.meet()
    many = [session(n) for n in range(1, 9) if pair.order(session(n), 10, 60)]
    pair.pays = False
    for one in many * 3:
        pair.generate(one, 60)
    assert len(many) > 3
    assert pair.seller.unacknowledged <= RATE.cost(0, 64) + RATE.cost(10, 0)


def test_opening_and_never_sending():
    pair = Pair()
    pair.meet()
    pair.pays = False
    assert pair.order(session(1), 300, 10)
    assert pair.did == {}
    pair.wait(PATIENCE)
    assert not pair.seller.sales


def test_bait_prices():
    """A seller that asks more than it said is signed nothing."""
    buyer = Buyer()
    buyer.buy(Order(session(1), RATE, 50, 10), 0)
    assert buyer.sold(session(1), 50, RATE.price + 1, 0) == []
    assert buyer.purchases[session(1)].wrong == f"it asks {RATE.price + 1:,} where {RATE.price:,} was agreed"
    assert buyer.said(session(1), 0, 10, 0) == []


def test_stale_prices():
    """A seller that was cheap a while ago is chosen by what it says now."""
    cheap, dear = (SellerQuote(name, Rate(100, price), 0.0, 10.0, 10**9) for name, price in (("a", 500), ("b", 900)))
    assert choices([cheap, dear], 100, 100)[0].quote.seller == "a"
    assert choices([cheap._replace(rate=Rate(100, 2000)), dear], 100, 100)[0].quote.seller == "b"


@pytest.mark.parametrize("traded", [10**3, 10**12])
def test_wash_trades(traded):
    """Two devices that sign for each other as much as they like are owed nothing by anybody else."""
    records = {"ana": Record(gave=500)}
    score = ContributionScore(records, {"eve": {"mallory": traded}, "mallory": {"eve": traded}})
    assert (score.owed("eve"), score.vouched("eve"), score.vouched("mallory")) == (0, 0.0, 0.0)
    askers = [Asker("eve", 2, 0), Asker("ana", 2, 5), Asker("new", 2, 1)]
    assert [one.device for one in order_of_service(askers, score)] == ["ana", "eve", "new"]


def test_gifts_to_oneself_save_nothing_up():
    """What a device gave another owner's own devices, in gifts, does not raise what it may save up here."""
    balance = Balance(signed=10**9, signed_gifts=10**9)
    assert balance.left(ALLOWANCE) == ALLOWANCE.saved + balance.owed
    assert ALLOWANCE.cap(0) < ALLOWANCE.cap(10**6)


def test_a_clock_that_jumps_ahead_and_back_refills_once():
    balance = Balance.new(0, ALLOWANCE)
    there = balance.at(10 * DAY_MS, ALLOWANCE)
    assert there.at(0, ALLOWANCE) == there
    assert there.at(10 * DAY_MS, ALLOWANCE) == there
    assert there.left(ALLOWANCE) == ALLOWANCE.saved


def test_a_voucher_of_another_session_pays_for_no_prompt_twice():
    pair = Pair()
    pair.meet()
    assert pair.order(session(1), 100, 10)
    known = pair.seller.balance.acknowledged
    pair.pays = False
    assert pair.order(session(2), 100, 10)
    pair.hear(voucher(known, session(2), by=BEN, kind=Kind.WORK))  # the same total, with another name
    assert session(2) not in pair.did


def test_what_does_not_suffice_for_a_token_does_not_prolong_the_wait():
    pair = Pair()
    pair.meet()
    assert pair.order(session(1), 10, 200)
    pair.pays = False
    pair.generate(session(1), 200)
    for n in range(1, 4):
        pair.moment += PATIENCE // 3
        seller = pair.seller
        seller.acknowledge(seller.balance.acknowledged + 1, 0, session(1), pair.moment)
        seller.acknowledge(seller.balance.acknowledged + 1, n, session(1), pair.moment)  # nor does a gift
    assert [one.why for one in pair.seller.tick(pair.moment)] == ["unpaid"]


def test_a_gift_does_not_pay_for_half_of_a_prompt():
    pair = Pair()
    pair.meet()
    pair.pays = False
    order = Order(session(1), RATE, 200, 10)
    did = pair.seller.sell(order, 0)
    assert [one.what for one in did] == ["say sold"]
    known = pair.seller.balance.acknowledged
    assert pair.seller.acknowledge(known + order.half, order.half, session(1), 0) == []
    (read,) = pair.seller.acknowledge(known + 2 * order.half, order.half, session(1), 0)
    assert read.what == "read prompt"
