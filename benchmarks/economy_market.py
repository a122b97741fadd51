"""What becomes of owners who share their devices by ainet's rules: simulations with seeds, by the product's own code.

Balances, allowances, prices, the choice of a seller, the order of service and sessions are those of `ainet.economy`;
signatures are replaced by a counter. Each scenario stands beside what it is compared with.

    python benchmarks/economy_market.py [lab] [riders] [market] [sybils] [liars] [partition] [thousand] [speed]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from line_chart import write_chart
from owners import ANSWER, ONE, PROMPT, RATE, Owner, allowance, owners, serve

from ainet.economy.balance import DAY_MS, Balance
from ainet.economy.checks import ONE_IN, is_due, lies
from ainet.economy.choice import MOST_ASKED, SellerQuote, choices
from ainet.economy.contribution import Asker, ContributionScore, Record, order_of_service
from ainet.economy.order import Order
from ainet.economy.pricing import DynamicPricing, Load
from ainet.economy.session import Buyer, Seller

RESULTS = Path(__file__).parent / "results" / "economy_market.json"
DOCS = Path(__file__).parent.parent / "docs"
HOUR_MS, MINUTE_MS = 3_600_000, 60_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], default=[])
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.scenarios or SCENARIOS:
        results[name] = SCENARIOS[name]()
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


# A lab of ten: everybody asks devices that are at least as strong as the own one.


def lab() -> dict[str, Any]:
    """Return which part of the questions is answered, with allowances and with limits of debts."""
    days = 60
    rules = {
        "allowance of half an hour a day": lambda speed: allowance(speed, 0.5, 1.0),
        "fixed limit of an hour": lambda speed: allowance(speed, 0.0, 1.0, 1.0),
        "fixed limit of 24 hours": lambda speed: allowance(speed, 0.0, 24.0, 24.0),
    }
    found: dict[str, Any] = {}
    by_day: dict[str, list[float]] = {}
    print("\nTen owners with unequal devices, who ask devices at least as strong as theirs: questions answered")
    print(f"  {'':34} days 1–3  days 11–20  days 51–60")
    for name, rule in rules.items():
        answered = _lab(rule, days)
        by_day[name] = [_part(answered, max(day - 1, 0), day + 2) for day in range(days)]
        parts = [_part(answered, *span) for span in ((0, 3), (10, 20), (50, 60))]
        found[name] = dict(zip(("first", "middle", "last"), parts, strict=True))
        print(f"  {name:34}" + "".join(f"{part:10.0%}" for part in parts))
    write_chart(DOCS / "economy-lab.svg", "Ten owners: questions that are answered", by_day, along="day")
    return found


def _lab(rule: Any, days: int) -> list[tuple[int, int]]:
    chance, everybody = random.Random(1), owners(10)
    given = {one.number: rule(one.speed) for one in everybody}
    is_limit = not any(one.daily for one in given.values())
    answered = []
    for day in range(days):
        asked = done = 0
        moments = sorted(
            (day * DAY_MS + chance.randrange(DAY_MS), one.number)
            for one in everybody[:-1]
            for _ in range(_questions(chance))
        )
        for moment, number in moments:
            buyer = everybody[number]
            quotes = []
            for seller in everybody[number + 1 :]:
                if is_limit and buyer.number not in seller.balances:
                    seller.balances[buyer.number] = Balance(moment=moment)
                balance = seller.balance(buyer.number, moment, given[seller.number])
                left = balance.left(given[seller.number])
                quotes.append(SellerQuote(str(seller.number), RATE, 0.0, seller.speed, left))
            chosen = choices(quotes, PROMPT, ANSWER)
            asked += 1
            if chosen:
                done += 1
                serve(everybody[int(chosen[0].quote.seller)], buyer, chosen[0].cost)
        answered.append((done, asked))
    return answered


def _questions(chance: random.Random) -> int:
    """Return how many questions an owner has on a day: 150 on average, on some days many."""
    return round(chance.lognormvariate(math.log(150) - 0.18, 0.6))


def _part(answered: list[tuple[int, int]], first: int, last: int) -> float:
    return sum(done for done, _ in answered[first:last]) / sum(asked for _, asked in answered[first:last])


# Free riders: three of ten never give, and there is room for a part of the questions.


def riders() -> dict[str, Any]:
    """Return which part of the questions of contributors and of free riders is answered, by the order of service."""
    found: dict[str, Any] = {}
    print("\nTen owners of whom three never give: questions answered, contributors and riders")
    for room in (0.5, 0.84):
        for is_ordered in (False, True):
            contributors, free = _riders(room, is_ordered=is_ordered)
            order = "whom the device owes most first" if is_ordered else "by arrival"
            found[f"{order}, room for {room:.0%}"] = {"contributors": contributors, "riders": free}
            ratio = contributors / max(free, 1e-9)
            print(f"  room for {room:.0%}, {order:32} {contributors:6.0%} {free:6.0%}  ratio {ratio:.1f}")
    return found


def _riders(room: float, *, is_ordered: bool) -> tuple[float, float]:
    chance = random.Random(2)
    everybody = [Owner(i, 10.0, gives=i >= 3) for i in range(10)]
    given = allowance(10.0, 0.5, 1.0)
    givers = [one for one in everybody if one.gives]
    hourly = 20  # questions of an owner
    places = round(room * hourly * len(everybody) / len(givers))
    asked, done = [0] * 10, [0] * 10
    for hour in range(24 * 30):
        moment = hour * HOUR_MS
        waiting: dict[int, list[Asker]] = {one.number: [] for one in givers}
        for one in everybody:
            for _ in range(hourly):
                asked[one.number] += 1
                seller = chance.choice([other for other in givers if other is not one])
                waiting[seller.number].append(Asker(str(one.number), 2, moment + chance.randrange(HOUR_MS)))
        for seller in givers:
            queue = sorted(waiting[seller.number], key=lambda one: one.since)
            if is_ordered:
                records = {
                    str(other): Record(gave=balance.signed, had=balance.acknowledged)
                    for other, balance in seller.balances.items()
                }
                queue = order_of_service(queue, ContributionScore(records, {}))
            left = places
            for asker in queue:
                buyer = everybody[int(asker.device)]
                if left and seller.balance(buyer.number, moment, given).left(given) >= ONE:
                    left -= 1
                    done[buyer.number] += 1
                    serve(seller, buyer, ONE)
    parts = [n / of for n, of in zip(done, asked, strict=True)]
    return statistics.mean(parts[3:]), statistics.mean(parts[:3])


# Forty sellers, and a load that comes and goes with the day.


def market() -> dict[str, Any]:
    """Return how long buyers wait, and how many are served, with prices by load and with fixed prices."""
    found: dict[str, Any] = {}
    print("\nForty unequal sellers, 12 asked live by each buyer: mean wait, answered, value created")
    for load in (0.55, 1.3):
        for name, pricing in {"price by load": DynamicPricing(), "fixed price": DynamicPricing(is_fixed=True)}.items():
            wait, part, value = _market(load, pricing)
            found[f"{name}, load {load:.0%}"] = {"wait_s": wait, "answered": part, "value": value}
            print(f"  load {load:4.0%}, {name:14} {wait:6.1f} s {part:6.0%} {value:8.1f}")
    return found


def _market(load: float, pricing: DynamicPricing) -> tuple[float, float, float]:
    chance = random.Random(3)
    speeds = [chance.lognormvariate(math.log(12), 0.6) for _ in range(40)]
    free_at = [0.0] * len(speeds)  # when a seller has nothing more to do
    busy: list[list[tuple[float, float]]] = [[] for _ in speeds]
    whole = sum(speeds) / ANSWER  # answers a second at full load
    now, waits, n, value = 0.0, [], 0, 0.0
    duration = 6 * 3600.0
    while now < duration:
        wave = 1 + 0.6 * math.sin(2 * math.pi * now / duration)
        now += chance.expovariate(whole * load * wave)
        n += 1
        worth = chance.lognormvariate(0.5, 0.7)  # times the base price
        tokens = max(20, round(chance.lognormvariate(math.log(ANSWER) - 0.18, 0.6)))
        quotes = []
        for i in chance.sample(range(len(speeds)), MOST_ASKED):
            busy[i] = [span for span in busy[i] if span[1] > now - 60]
            part = sum(min(end, now) - max(begin, now - 60) for begin, end in busy[i] if begin < now) / 60
            wait = max(free_at[i] - now, 0.0)
            price = pricing.quote(Load(part, wait)).price
            quotes.append(SellerQuote(str(i), RATE._replace(price=price), wait, speeds[i], 1 << 60))
        best = choices(quotes, PROMPT, tokens)[0]
        gain = worth * math.exp(-best.quote.starts_in / 30)  # an answer is worth less the later it comes
        if gain * 1000 < best.quote.rate.price:
            continue  # too dear
        i = int(best.quote.seller)
        begin = max(now, free_at[i])
        free_at[i] = begin + tokens / speeds[i]
        busy[i].append((begin, free_at[i]))
        waits.append(begin - now)
        value += gain
    return statistics.mean(waits), len(waits) / n, value / duration * 60


# A thousand names of one attacker.


def sybils() -> dict[str, Any]:
    """Return what an attacker gets from a device in a day, with one name and with a thousand."""
    found: dict[str, Any] = {}
    print("\nOne attacker: what a device gives away on the second day, in minutes of its work")
    given = allowance(10.0, 10 / 60, 10 / 60, 10 / 60)
    a_minute = 60 * 10.0 * ONE / ANSWER
    for names in (1, 1000):
        shared = Balance.new(0, given)
        had = 0
        for moment in range(0, 2 * DAY_MS, MINUTE_MS):
            shared = shared.at(moment, given)
            had = 0 if moment == DAY_MS else had
            for _ in range(names if moment == 0 else min(names, 3)):
                if shared.left(given) >= ONE:
                    shared = replace(shared, acknowledged=shared.acknowledged + ONE)
                    had += ONE
        found[f"{names} names"] = had / a_minute
        print(f"  {names:5} names: {had / a_minute:.1f} minutes")
    vouching = ContributionScore({"ana": Record(gave=50 * ONE)}, {"ana": {f"sybil{i}": 10**9 for i in range(1000)}})
    standing = sum(vouching.vouched(f"sybil{i}") for i in range(1000)) / ONE
    found["standing behind one contact, in answers"] = standing
    print(f"  1,000 names behind a contact that gave 50 answers: {standing:.1f} answers of standing together")
    return found


# Sellers that serve something cheaper than they name.

#: How likely a check finds a lie, and an honest answer wrong (`benchmarks/cheats.py`, 200 tokens).
FOUND, FALSE_ALARM = 0.99, 0.002


def liars() -> dict[str, Any]:
    """Return which part of the answers is from liars, week by week, with checks and without."""
    found: dict[str, Any] = {}
    by_week: dict[str, list[float]] = {}
    print("\nForty sellers, eight of whom serve something cheaper at 70 % of the price: answers that are lies, by week")
    for is_checked in (True, False):
        weeks, lost = _liars(is_checked=is_checked)
        name = "with checks" if is_checked else "without"
        found[name] = {"lies": weeks, "honest sellers that are not asked any more": lost}
        by_week[name] = weeks
        print(f"  {name:14}" + "".join(f"{part:8.1%}" for part in weeks) + f"   honest sellers given up: {lost:.1%}")
    write_chart(DOCS / "economy-liars.svg", "Answers that are not of the named model", by_week, along="week")
    return found


def _liars(*, is_checked: bool) -> tuple[list[float], float]:
    chance, sellers = random.Random(4), 40
    speeds = [chance.lognormvariate(math.log(12), 0.6) for _ in range(sellers)]
    buyers: list[dict[int, list[bool]]] = [{} for _ in range(20)]
    counts: list[dict[int, int]] = [{} for _ in buyers]
    lies_of_week = []
    for _ in range(4):
        bought = wrong = 0
        for _ in range(7 * 30):
            for passed, finished in zip(buyers, counts, strict=True):
                records = {
                    str(one): Record(finished=finished.get(one, 0), passed=sum(done), is_liar=lies(done))
                    for one, done in passed.items()
                }
                score = ContributionScore(records, {})
                quotes = []
                for i in chance.sample(range(sellers), MOST_ASKED):
                    rate = RATE._replace(price=round(1000 * chance.uniform(0.8, 1.3) * (0.7 if i < 8 else 1.0)))
                    quotes.append(SellerQuote(str(i), rate, 0.0, speeds[i], 1 << 60, score.trust(str(i))))
                best = choices(quotes, PROMPT, ANSWER)
                if not best:
                    continue
                i = int(best[0].quote.seller)
                bought, wrong = bought + 1, wrong + (i < 8)
                finished[i] = finished.get(i, 0) + 1
                done = passed.setdefault(i, [])
                if is_checked and is_due(len(done), failed_last=done[-1:] == [False], chance=chance.randrange(ONE_IN)):
                    done.append(chance.random() >= (FOUND if i < 8 else FALSE_ALARM))
        lies_of_week.append(wrong / bought)
    honest = [done for passed in buyers for i, done in passed.items() if i >= 8]
    return lies_of_week, sum(map(lies, honest)) / len(honest)


# A network that is split, and a thousand nodes.


def partition() -> dict[str, Any]:
    """Return which part of the questions is answered before, while and after two halves do not reach each other."""
    chance, everybody = random.Random(5), owners(10)
    given = {one.number: allowance(one.speed, 0.5, 1.0) for one in everybody}
    answered = []
    for day in range(40):
        is_split = 15 <= day < 25
        asked = done = 0
        for moment in sorted(day * DAY_MS + chance.randrange(DAY_MS) for _ in range(9 * 100)):
            buyer = everybody[chance.randrange(9)]
            quotes = []
            for seller in everybody[buyer.number + 1 :]:
                if is_split and seller.number % 2 != buyer.number % 2:
                    continue
                left = seller.balance(buyer.number, moment, given[seller.number]).left(given[seller.number])
                quotes.append(SellerQuote(str(seller.number), RATE, 0.0, seller.speed, left))
            asked += 1
            chosen = choices(quotes, PROMPT, ANSWER)
            if chosen:
                done += 1
                serve(everybody[int(chosen[0].quote.seller)], buyer, chosen[0].cost)
        answered.append((done, asked))
    parts = [_part(answered, *span) for span in ((5, 15), (15, 25), (25, 40))]
    agreed = all(
        one.balances[other].acknowledged == everybody[other].balances[one.number].signed
        for one in everybody
        for other, balance in one.balances.items()
        if balance.acknowledged
    )
    print("\nTen owners, split into two halves for ten days: questions answered before, meanwhile, after")
    print("  " + "".join(f"{part:8.0%}" for part in parts) + f"   both sides of every account agree: {agreed}")
    return {"before": parts[0], "meanwhile": parts[1], "after": parts[2], "agreed": agreed}


def thousand() -> dict[str, Any]:
    """Return how a thousand nodes with twelve contacts each fare in a day, by what their devices can do."""
    chance, n = random.Random(6), 1000
    speeds = [chance.lognormvariate(math.log(10), 0.8) for _ in range(n)]
    everybody = [Owner(i, speed) for i, speed in enumerate(speeds)]
    given = [allowance(speed, 0.5, 1.0) for speed in speeds]
    contacts = [{(i + hop) % n for hop in (-3, -2, -1, 1, 2, 3)} | set(chance.sample(range(n), 6)) for i in range(n)]
    free_at = [0.0] * n
    waits: list[float] = []
    asked, done = [0] * n, [0] * n
    begun = time.process_time()
    for moment in sorted(chance.randrange(DAY_MS) for _ in range(60 * n)):
        buyer, now = everybody[chance.randrange(n)], moment / 1000
        quotes = []
        for i in contacts[buyer.number]:
            if speeds[i] > buyer.speed:
                left = everybody[i].balance(buyer.number, moment, given[i]).left(given[i])
                quotes.append(SellerQuote(str(i), RATE, max(free_at[i] - now, 0.0), speeds[i], left))
        if not quotes:
            continue  # nobody whom it knows is quicker: it answers itself
        asked[buyer.number] += 1
        chosen = choices(quotes, PROMPT, ANSWER)
        if chosen and chosen[0].quote.starts_in < 60:
            i = int(chosen[0].quote.seller)
            waits.append(max(free_at[i] - now, 0.0))
            free_at[i] = max(free_at[i], now) + ANSWER / speeds[i]
            serve(everybody[i], buyer, chosen[0].cost)
            done[buyer.number] += 1
    order = sorted(range(n), key=lambda i: speeds[i])
    weakest = [done[i] / asked[i] for i in order[: n // 4] if asked[i]]
    seconds = time.process_time() - begun
    found = {
        "answered": sum(done) / sum(asked),
        "of the weakest quarter": statistics.mean(weakest),
        "mean wait, s": statistics.mean(waits),
        "processor seconds": round(seconds, 1),
    }
    print("\nA thousand nodes with twelve contacts each, a day, 60 questions each")
    print("  " + ", ".join(f"{what} {value:.2f}" for what, value in found.items()))
    return found


# How quick the rules are.


def speed() -> dict[str, Any]:
    """Return how many sessions a second a core can play, message by message."""
    given = allowance(10.0, 1000.0, 100_000.0, 100_000.0)
    seller, buyer = Seller(Balance.new(0, given), given), Buyer()
    sessions, signatures = 5000, 0
    begun = time.process_time()
    for number in range(sessions):
        session = number.to_bytes(16, "big")
        order = Order(session, RATE, PROMPT, 64)
        buyer.buy(order, number)
        did = seller.sell(order, number)
        signs = buyer.sold(session, PROMPT, RATE.price, number)
        index = 0
        while did or signs or index < 64:
            for one in signs:
                signatures += 1
                did = seller.acknowledge(one.total, one.gifts, one.session, number)
            did = []
            room = min(seller.room(session), 8, 64 - index)
            if not room:
                break
            seller.generated(session, room, number)
            signs = buyer.said(session, index, room, number)
            index += room
        sale = seller.end(session, number)
        for one in buyer.done(session, PROMPT, sale.generated):
            signatures += 1
            seller.acknowledge(one.total, one.gifts, one.session, number)
        buyer.close(session)
        assert sale.generated == 64, "a session stopped"
    seconds = time.process_time() - begun
    assert seller.balance.acknowledged == buyer.signed == sessions * RATE.cost(PROMPT, 64)
    each = signatures / sessions
    print(f"\n{sessions / seconds:,.0f} sessions of 64 tokens a second and core, {each:.1f} vouchers each")
    return {"sessions_per_s": round(sessions / seconds)}


SCENARIOS = {
    "lab": lab,
    "riders": riders,
    "market": market,
    "sybils": sybils,
    "liars": liars,
    "partition": partition,
    "thousand": thousand,
    "speed": speed,
}

if __name__ == "__main__":
    main()
