"""What another device may have: what it is owed, and an allowance that refills."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainet.economy.balance import DAY_MS, Allowance, Balance
from ainet.economy.credits import GENERATED, HIGHEST_PRICE, MOST, UNIT_PRICE, Rate, millions

ALLOWANCE = Allowance(daily=1000, saved=2000, grows_to=48_000)


def test_a_new_one_has_a_day_s_part_and_saves_up_two():
    balance = Balance.new(0, ALLOWANCE)
    assert balance.left(ALLOWANCE) == 1000
    assert balance.at(DAY_MS // 2, ALLOWANCE).left(ALLOWANCE) == 1500
    assert balance.at(30 * DAY_MS, ALLOWANCE).left(ALLOWANCE) == 2000


def test_what_it_is_owed_comes_on_top_and_stays():
    balance = Balance.new(0, ALLOWANCE).at(DAY_MS, ALLOWANCE)
    owed = replace(balance, signed=600)
    assert owed.owed == 600
    assert owed.left(ALLOWANCE) == 2000 + 600 + 600 // 4
    assert owed.at(100 * DAY_MS, ALLOWANCE).owed == 600


def test_what_may_be_saved_up_grows_with_what_was_given():
    assert ALLOWANCE.cap(0) == 2000
    assert ALLOWANCE.cap(4000) == 3000
    assert ALLOWANCE.cap(10**9) == 48_000
    assert Allowance(0, 500, 100).cap(10**9) == 500  # an owner may allow less than what it could grow to


def test_nothing_comes_back_where_nothing_is_given_away():
    none = Allowance(0, 0, 0)
    assert Balance.new(0, none).at(DAY_MS, none).left(none) == 0


@given(st.lists(st.integers(-DAY_MS, DAY_MS), max_size=30), st.integers(0, 10_000))
def test_a_clock_that_jumps_gives_no_more_than_the_time_that_passed(steps, had):
    balance = replace(Balance.new(0, ALLOWANCE), acknowledged=had)
    before, moment, latest = balance.level, 0, 0
    for step in steps:
        moment += step
        latest = max(latest, moment)
        balance = balance.at(moment, ALLOWANCE)
        assert 0 <= balance.leaked <= latest * ALLOWANCE.daily // DAY_MS
        assert balance.level == before - balance.leaked >= 0


@given(st.lists(st.integers(0, DAY_MS // 50), max_size=60))
def test_looking_often_takes_nothing_away(steps):
    start = replace(Balance.new(0, ALLOWANCE), acknowledged=100_000)
    balance, moment = start, 0
    for step in steps:
        moment += step
        balance = balance.at(moment, ALLOWANCE)
    whole = start.at(moment, ALLOWANCE)
    assert 0 <= whole.leaked - balance.leaked <= 1


@given(st.integers(1, 10_000), st.integers(1, HIGHEST_PRICE), st.integers(0, 10_000), st.integers(0, 10_000))
def test_costs_grow_with_every_token_and_add_up(parameters, price, prompt, generated):
    rate = Rate(parameters, price)
    cost = rate.cost(prompt, generated)
    assert isinstance(cost, int)
    assert cost <= rate.cost(prompt + 1, generated) <= rate.cost(prompt + 1, generated + 1) <= MOST
    exact = parameters * (prompt + GENERATED * generated) * price / UNIT_PRICE
    assert cost == pytest.approx(exact, abs=1)
    assert rate.first_half(prompt) <= cost
    assert (
        rate.cost(prompt, rate.tokens_for(cost, prompt)) <= cost < rate.cost(prompt, rate.tokens_for(cost, prompt) + 1)
    )
    assert rate.tokens_for(cost, prompt) >= generated


def test_parameters_are_counted_in_millions():
    assert [millions(n) for n in (1, 400_000, 134_515_008, 7_600_000_000)] == [1, 1, 135, 7600]


def test_another_allowance_leaves_the_same_part_of_it_to_be_saved_up():
    before, after = Allowance(100, 200, 1000), Allowance(50, 100, 500)
    new = Balance.new(0, before)
    assert new.left(before) == 100
    assert new.scaled(before, after) == Balance.new(0, after)
    had = replace(new, acknowledged=40)
    assert had.scaled(before, after).left(after) == 10  # what it had stays had
    assert had.scaled(before, before) == had
    assert had.scaled(Allowance(0, 0, 0), after) == had  # nothing was sold before
