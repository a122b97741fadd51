"""Prices, whom to buy from, whom to serve first, and whom to trust."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainet.economy.choice import SellerQuote, choices
from ainet.economy.contribution import Asker, ContributionScore, Record, order_of_service
from ainet.economy.credits import UNIT_PRICE, Rate
from ainet.economy.pricing import DynamicPricing, Load


def test_a_device_that_is_busy_half_of_the_time_asks_the_base_price():
    pricing = DynamicPricing(2000)
    assert pricing.quote(Load(0.5)).price == 2000
    assert pricing.quote(Load(0.0)).price == round(2000 * math.exp(-0.5))
    assert pricing.quote(Load(1.0, wait=30)).price == round(2000 * math.exp(1.5))
    assert pricing.quote(Load(1.0, wait=600)).price == pricing.quote(Load(1.0, wait=30)).price
    assert pricing.quote(Load(0.8, wait=12)).reason == "busy for 80% of the last minute, 12 s to wait"


def test_floor_cap_and_a_price_that_the_owner_has_named():
    assert DynamicPricing(1000, floor=900).quote(Load(0)) == (900, "busy for 0% of the last minute, at the floor")
    assert DynamicPricing(1000, cap=1500).quote(Load(1, 30)).reason.endswith("at the cap")
    assert DynamicPricing(700, is_fixed=True).quote(Load(1, 30)).price == 700
    with pytest.raises(ValueError, match="floor"):
        DynamicPricing(100, floor=200)


@given(st.floats(-1, 2), st.floats(-1, 2), st.floats(-10, 100), st.floats(-10, 100))
def test_prices_grow_with_load_and_with_waiting(busy, more, wait, longer):
    pricing = DynamicPricing()
    low, high = sorted((busy, more))
    soon, late = sorted((wait, longer))
    assert pricing.quote(Load(low, soon)).price <= pricing.quote(Load(high, late)).price
    assert UNIT_PRICE * math.exp(-0.51) <= pricing.quote(Load(busy, wait)).price <= UNIT_PRICE * math.exp(1.51)


def quote(seller, price=1000, **more):
    given = {"starts_in": 0.0, "tokens_per_s": 20.0, "left": 10**9} | more
    return SellerQuote(seller, Rate(100, price), **given)


def test_the_cheapest_is_chosen_where_time_and_trust_have_their_price():
    def best(*quotes, **more):
        return [one.quote.seller for one in choices(quotes, 100, 200, **more)]

    assert best(quote("dear", 1100), quote("cheap", 1000)) == ["cheap", "dear"]
    assert best(quote("slow", 1000, tokens_per_s=2.0), quote("quick", 1500)) == ["quick", "slow"]
    assert best(quote("later", 1000, starts_in=60), quote("now", 1500)) == ["now", "later"]
    assert best(quote("trusted", 1000), quote("new", 900, trust=0.8)) == ["trusted", "new"]
    assert best(quote("liar", 1, trust=0.0)) == []
    assert best(quote("exhausted", 1000, left=69_999), quote("enough", 1000, left=70_000)) == ["enough"]
    assert best(quote("dear", 2000), quote("cheap", 1000), budget=70_000) == ["cheap"]
    assert best(quote("dead", tokens_per_s=0.0)) == []
    assert choices([], 1, 1) == []


def test_what_a_contact_vouches_for_is_shared_by_all_the_names_behind_it():
    records = {"ana": Record(gave=1000), "ben": Record(gave=10)}
    sybils = {f"sybil{i}": 10**6 for i in range(1000)}
    score = ContributionScore(records, {"ana": {"carl": 600}, "ben": sybils})
    assert score.vouched("carl") == 600
    assert sum(score.vouched(one) for one in sybils) == pytest.approx(10)
    assert ContributionScore(records, {"ana": {"ana": 500}}).vouched("ana") == 0
    assert ContributionScore({}, {"nobody": {"carl": 600}}).vouched("carl") == 0


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 1000)),
    st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 10**6))),
)
def test_nobody_vouches_for_more_than_it_gave(gave, vouched):
    records = {name: Record(gave=amount) for name, amount in gave.items()}
    for contact, signed in vouched.items():
        score = ContributionScore(records, {contact: signed})
        assert sum(score.vouched(one) for one in signed) <= gave.get(contact, 0) + 1e-6


def test_who_lied_is_trusted_no_more_and_who_is_new_a_little():
    score = ContributionScore(
        {"old": Record(finished=50, passed=10), "weak": Record(finished=1, failed=5), "liar": Record(9, is_liar=True)},
        {},
    )
    assert score.trust("old") > 0.98 > score.trust("new") == 0.8 > score.trust("weak") > score.trust("liar") == 0


def test_the_owner_is_served_first_then_members_then_whom_the_device_owes_most():
    records = {"ana": Record(gave=500, had=100), "ben": Record(gave=500, had=450), "stranger": Record(gave=60)}
    score = ContributionScore(records, {"ana": {"carl": 70}})
    waiting = [
        Asker("dora", 2, 1),
        Asker("newcomer", 3, 0),
        Asker("carl", 2, 9),
        Asker("ben", 2, 2),
        Asker("stranger", 3, 3),
        Asker("ana", 2, 8),
        Asker("laptop", 1, 9),
        Asker("me", 0, 10),
        Asker("tablet", 1, 7),
    ]
    expected = ["me", "tablet", "laptop", "ana", "stranger", "ben", "carl", "dora", "newcomer"]
    assert [one.device for one in order_of_service(waiting, score)] == expected
