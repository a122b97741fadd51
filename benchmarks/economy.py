"""What buying costs: vouchers, rows, prices, checks, and a bought answer beside an own one.

    python benchmarks/economy.py [vouchers] [answers] [far] [prices] [far_prices] [checks] [owner]

`far` and `far_prices` make network namespaces, and so need root and iproute2.

Everything is measured beside its limit in the same run; results are printed, and kept in `results/economy.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.lan import Lan, LanNodes
from support.local_nodes import owners, question

from ainet.api import market
from ainet.api.generate import Done, Message, Text
from ainet.economy import voucher as vouchers
from ainet.economy.credits import Rate
from ainet.economy.ledger import DistributedLedger, Model
from ainet.economy.order import Order
from ainet.economy.signed import Parties
from ainet.timing import Timing

if TYPE_CHECKING:
    from ainet.client.client import NodeClient
    from ainet.node.node import Node

RESULTS = Path(__file__).parent / "results" / "economy.json"
#: Continued greedily, this goes on for ever.
STORY = "a b c d e f g " * 11 + "a b c d e f g"
SETTINGS = {"context_window": 2048, "speculate": False, "stage_threads": 1, "threads": 1}
QUICK = Timing(sold_load=0.1)
TOKENS, ROUNDS = 250, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.parts or PARTS:
        results[name] = PARTS[name]()
        for what, value in results[name].items():
            print(f"{what:<72} {value}")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def measure_vouchers() -> dict[str, Any]:
    """Measure vouchers on one core, and the ledger's rows."""
    keys = [Ed25519PrivateKey.generate() for _ in range(2)]
    payer, payee = (key.public_key().public_bytes_raw() for key in keys)
    parties = Parties(payer, payee, b"a" * 32, b"b" * 32)

    def body(total: int) -> vouchers.Body:
        kind = vouchers.Kind.WORK
        return vouchers.Body(payer, payee, total, 0, kind, total.to_bytes(16, "big"), 16, bytes(32), int(time.time()))

    n = 3000
    begun = time.perf_counter()
    signed = [vouchers.sign(body(total), parties, keys[0].sign) for total in range(1, n + 1)]
    signing = n / (time.perf_counter() - begun)
    begun = time.perf_counter()
    for one in signed:
        vouchers.read(one, parties, keys[0].public_key())
    reading = n / (time.perf_counter() - begun)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        ledger = DistributedLedger(path, payee, b"b" * 32)
        account = ledger.account(payer, b"a" * 32)
        ledger.file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        empty = path.stat().st_size
        begun = time.perf_counter()
        for number, one in enumerate(signed, 1):
            order = Order(number.to_bytes(16, "big"), Rate(135), 30, 16)
            ledger.begin(account.id, order, Model(bytes(32), "small", 135), is_own=False)
            ledger.note_voucher(account.id, one, vouchers.said(one), {order.session: 1}, is_own=False)
        noting = 2 * n / (time.perf_counter() - begun)
        ledger.file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        row = (path.stat().st_size - empty) / n
        ledger.close()
    return {
        "vouchers read and checked a second, one core (aim 5,000)": round(reading),
        "vouchers signed a second": round(signing),
        "changes of the ledger that are on the disk, a second": round(noting),
        "bytes of a row, without its receipt (aim 300)": round(row),
        "signing, checking and noting one voucher in 16 tokens, of a second at 60 tokens/s (%)": round(
            100 * 60 / 16 * (1 / signing + 1 / reading + 2 / noting), 2
        ),
    }


async def _answer(node: Node, **options: Any) -> tuple[float, float]:
    """Return tokens a second after the first one, and seconds to that."""
    begun = time.perf_counter()
    times: list[tuple[float, int]] = []
    async with contextlib.aclosing(
        node.generate(question(STORY, max_tokens=TOKENS, raw=True, temperature=0.0, **options))
    ) as events:
        async for event in events:
            if isinstance(event, Text) and event.tokens:
                times.append((time.perf_counter(), len(event.tokens)))
            assert not isinstance(event, Done) or len(event.tokens) == TOKENS
    first = times[0][0]
    return sum(n for _, n in times[1:]) / (times[-1][0] - first), first - begun


def measure_answers() -> dict[str, Any]:
    """Measure a bought answer beside the seller's own one, in turns."""

    async def work() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            async with owners(Path(folder), QUICK, ana=SETTINGS, ben={**SETTINGS, "discover_models": False}) as found:
                ana, ben = found.values()
                await ana.call(market.sell, [], price="1", max_load="100%")
                await _answer(ana)
                await _answer(ben, seller="ana")
                own, bought = [], []
                for seed in range(ROUNDS):
                    own.append(await _answer(ana, seed=seed))
                    bought.append(await _answer(ben, seed=seed, seller="ana"))
        rates = [statistics.median(one[0] for one in kind) for kind in (own, bought)]
        firsts = [statistics.median(one[1] for one in kind) for kind in (own, bought)]
        return {
            "own answer, tokens/s and seconds to the first": [round(rates[0], 1), round(firsts[0], 3)],
            "bought on loopback, tokens/s and seconds to the first": [round(rates[1], 1), round(firsts[1], 3)],
            "bought / own (aim 0.98)": round(
                statistics.median(b[0] / o[0] for o, b in zip(own, bought, strict=True)), 3
            ),
        }

    return asyncio.run(work())


def measure_far() -> dict[str, Any]:
    """Measure a bought answer beside the seller's own one, in turns, over cables on which everything takes a while."""
    found: dict[str, Any] = {}
    for round_trip in (0.02, 0.1):
        names = {"ana": True, "ben": False}
        with (
            tempfile.TemporaryDirectory() as folder,
            Lan(f"ef{os.getpid() % 10000}", *names, apart=round_trip / 2) as lan,
        ):
            nodes = LanNodes(lan, Path(folder))
            try:
                for name, has_model in names.items():
                    nodes.start(name, **SETTINGS, discover_models=has_model)
                ticket = nodes.json("ana", "introduce", "--lan")["ticket"]
                nodes.run("ben", "accept", ticket, "--lan")
                nodes.run("ana", "sell", "--price", "1", "--max-load", "100%")
                found |= _far(nodes, round_trip)
            finally:
                nodes.close()
                for name in names:
                    nodes.python(name, "-m", "ainet", "down")
    return found


def _far(nodes: LanNodes, round_trip: float) -> dict[str, Any]:
    def answer(name: str, seed: int, **options: Any) -> float:
        def work(node: NodeClient) -> float:
            asked = {"raw": True, "temperature": 0.0, "max_tokens": TOKENS, "seed": seed, **options}
            times = [
                (time.perf_counter(), len(event.tokens))
                for event in node.generate([Message("user", STORY)], **asked)
                if isinstance(event, Text) and event.tokens
            ]
            assert sum(n for _, n in times) == TOKENS
            return sum(n for _, n in times[1:]) / (times[-1][0] - times[0][0])

        return nodes.client(name, work)

    answer("ana", 0)
    answer("ben", 0, seller="ana")
    pairs = [(answer("ana", seed), answer("ben", seed, seller="ana")) for seed in range(ROUNDS)]
    what = f"with {1000 * round_trip:.0f} ms there and back"
    return {
        f"own and bought {what}, tokens/s": [round(statistics.median(one), 1) for one in zip(*pairs, strict=True)],
        f"bought / own {what} (aim 0.98)": round(statistics.median(bought / own for own, bought in pairs), 3),
    }


def measure_far_prices() -> dict[str, Any]:
    """Measure live prices of 12 sellers that are 20 ms away, there and back, as their buyer's command asks for them."""
    round_trip, sellers = 0.02, [f"s{n}" for n in range(12)]
    with (
        tempfile.TemporaryDirectory() as folder,
        Lan(f"ep{os.getpid() % 10000}", "ben", *sellers, apart=round_trip / 2) as lan,
    ):
        nodes = LanNodes(lan, Path(folder))
        try:
            nodes.start("ben", **SETTINGS, discover_models=False)
            for name in sellers:
                nodes.start(name, **SETTINGS)
                ticket = nodes.json(name, "introduce", "--lan")["ticket"]
                nodes.run("ben", "accept", ticket, "--lan")
                nodes.run(name, "sell")

            def ask(node: NodeClient) -> float:
                begun = time.perf_counter()
                assert len(node.call(market.offers).offers) == len(sellers)
                return time.perf_counter() - begun

            nodes.client("ben", ask)
            asked = statistics.median(nodes.client("ben", ask) for _ in range(10))
        finally:
            nodes.close()
            for name in ("ben", *sellers):
                nodes.python(name, "-m", "ainet", "down")
    return {
        "12 live prices with 20 ms there and back, ms": round(1000 * asked, 1),
        "in round trips (aim 1.5)": round(asked / round_trip, 2),
    }


def measure_prices() -> dict[str, Any]:
    """Measure live prices of several sellers, asked at once, beside a round trip."""

    async def work() -> dict[str, Any]:
        sys.path.append(str(Path(__file__).parent.parent / "tests"))
        from support.traders import Trader, befriend

        from ainet.economy.quotes import Quotes
        from ainet.economy.terms import Terms
        from ainet.links.request import Probe
        from ainet.links.standing import Standing

        with tempfile.TemporaryDirectory() as folder:
            ben = await Trader(Path(folder) / "ben", "ben").start()
            sellers = [await Trader(Path(folder) / f"s{n}", f"s{n}", terms=Terms()).start() for n in range(12)]
            for one in sellers:
                await befriend(one, ben)
            quotes = Quotes(ben.links, ben.accounts, ben.wants, QUICK)
            ids = [one.id for one in sellers]
            await quotes.ask(ids)
            asked, trips = [], []
            for _ in range(20):
                begun = time.perf_counter()
                found, failed = await quotes.ask(ids)
                asked.append(time.perf_counter() - begun)
                assert (len(found), failed) == (12, {})
                begun = time.perf_counter()
                links = [await ben.links.connect(one, Standing.CONTACT) for one in ids]
                begun = time.perf_counter()
                await asyncio.gather(*(link.request(Probe(1)) for link in links))
                trips.append(time.perf_counter() - begun)
            for one in (ben, *sellers):
                await one.stop()
        return {
            "12 live prices, ms": round(1000 * statistics.median(asked), 1),
            "12 round trips that ask nothing, ms": round(1000 * statistics.median(trips), 1),
        }

    return asyncio.run(work())


def measure_checks() -> dict[str, Any]:
    """Measure a check beside the answer that it reads."""

    async def work() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            async with owners(Path(folder), QUICK, ben=SETTINGS) as found:
                (ben,) = found.values()
                from ainet.economy.checking import BEGINNINGS
                from ainet.node.judging import Judging
                from ainet.stages.protocol.generation import Open, Resume
                from ainet.stages.protocol.sampling_params import SamplingParams

                judging = Judging(ben.provider, ben.catalog)
                model = bytes.fromhex((await ben.provider.manifest("smollm2")).digest)
                answers, checks = [], []
                for seed, text in enumerate(BEGINNINGS):
                    sampling = SamplingParams(seed=seed)
                    begun = time.perf_counter()
                    prompt, tokens = await judging.continued(model, text, sampling, TOKENS)
                    answers.append((time.perf_counter() - begun) / max(len(tokens), 1))
                    begun = time.perf_counter()
                    request = Open(
                        session=0,
                        messages=[],
                        raw=False,
                        sampling=sampling,
                        max_tokens=len(tokens) + 1,
                        resume=Resume(prompt, [], []),
                        expected=tokens,
                    )
                    await judging.judge(model, request)
                    checks.append((time.perf_counter() - begun) / max(len(tokens), 1))
        ratio = statistics.median(c / a for a, c in zip(answers[1:], checks[1:], strict=True))
        return {"a check / the answer that it reads, in time": round(ratio, 2)}

    return asyncio.run(work())


def measure_owner() -> dict[str, Any]:
    """Measure the owner's first token while eight bought sessions run, beside the same alone."""

    async def work() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            names = {f"b{n}": {**SETTINGS, "discover_models": False} for n in range(4)}
            async with owners(
                Path(folder), QUICK, ana={**SETTINGS, "context_window": 8192, "sessions": 10}, **names
            ) as found:
                ana, *buyers = found.values()
                await ana.call(market.sell, [], price="0.01", max_load="100%")
                await _first(ana, 0)
                alone = [await _first(ana, seed) for seed in range(-5, 0)]
                asked = [
                    asyncio.create_task(_many(buyer, f"{buyer.name} {n}. {STORY}"))
                    for buyer in buyers
                    for n in range(2)
                ]
                beside = []
                for seed in range(4, 9):
                    await asyncio.sleep(1)
                    while (await ana.call(market.selling)).sessions < 8:
                        await asyncio.sleep(0.02)
                    beside.append(await _first(ana, seed))
                for task in asked:
                    task.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
        return {
            "the owner's first token alone, s": round(statistics.median(alone), 3),
            "while eight bought sessions run, s (aim: at most 1 s later)": round(statistics.median(beside), 3),
            "and at most, s": round(max(beside), 3),
        }

    return asyncio.run(work())


async def _first(node: Node, seed: int) -> float:
    """Return the seconds to the first token of a question that nobody has asked before."""
    begun = time.perf_counter()
    async with contextlib.aclosing(
        node.generate(question(f"What is {seed} times {seed + 7}?", max_tokens=4))
    ) as events:
        async for event in events:
            if isinstance(event, Text) and event.tokens:
                return time.perf_counter() - begun
    raise AssertionError


async def _many(node: Node, text: str) -> None:
    options = {"max_tokens": 380, "temperature": 0.0, "raw": True, "seller": "ana"}
    while True:
        async with contextlib.aclosing(node.generate(question(text, **options))) as events:
            async for _ in events:
                pass


PARTS = {
    "vouchers": measure_vouchers,
    "answers": measure_answers,
    "far": measure_far,
    "prices": measure_prices,
    "far_prices": measure_far_prices,
    "checks": measure_checks,
    "owner": measure_owner,
}


if __name__ == "__main__":
    main()
