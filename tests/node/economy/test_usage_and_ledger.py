"""What a seller's usage says is what its ledger says, and its buyer's: also where answers are interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from types import SimpleNamespace

import pytest
from support.trade import until
from support.traders import MadeUp, Trader, befriend, check_agreed

from ainet.economy.terms import Terms
from ainet.errors import AinetError, PeerUnreachable
from ainet.executor.metered import metered
from ainet.links.standing import Standing

PIPELINE = SimpleNamespace(is_own=True, model="made up")


class Counted(MadeUp):
    """Answers that are counted as those of real pipelines are."""

    def __init__(self):
        super().__init__()
        self.done = Counter()

    async def ready(self, model, requester):
        async with contextlib.aclosing(super().ready(model, requester)) as steps:
            async for step in steps:
                yield step if isinstance(step, str) else self

    def answer(self, request, flow):
        return metered(super().answer(request, flow), PIPELINE, request, "ben", self.note, is_new=True)

    def note(self, work):
        self.done.update(answers=work.answers, prompt=work.prompt, generated=work.generated)


async def usage_of(trader):
    rows = [row for row in (await trader.books.ledger()).rows if row.kind == "session"]
    return Counter(
        answers=len(rows),
        prompt=sum(row.prompt_tokens for row in rows),
        generated=sum(row.generated_tokens for row in rows),
    )


@pytest.mark.parametrize("seed", range(3))
async def test_tokens_of_usage_are_those_of_the_sessions(tmp_path, seed):
    chance = random.Random(seed)
    ana = Trader(tmp_path / "ana", "ana", terms=Terms(price=1000, max_load=1.0))
    ben = Trader(tmp_path / "ben", "ben")
    try:
        await ana.start()
        ana.works = ana.selling._works = Counted()
        await ben.start()
        await befriend(ana, ben)
        cut_off = 0
        for _ in range(25):
            asked = asyncio.create_task(
                ben.ask(most=chance.randrange(1, 120), prompt=chance.randrange(1, 90), said=chance.choice((0, 0, 7)))
            )
            what = chance.choice(("wait", "wait", "leave", "cut"))
            if what != "wait":
                cut_off += 1
                await asyncio.sleep(chance.uniform(0, 0.03))
                if what == "leave":
                    asked.cancel()
                else:
                    for link in ben.links.table.links(Standing.CONTACT):
                        link.close(PeerUnreachable("cut"))
            await asyncio.gather(asked, return_exceptions=True)
            assert asked.cancelled() or asked.exception() is None or isinstance(asked.exception(), AinetError)

        async def is_over():
            return not ana.selling.resources.sessions and await ana.met() and await ben.met()

        await until(is_over)
        await check_agreed(ana, ben)
        sold, done = await usage_of(ana), ana.works.done
        # What was cut off: a prompt that was not read yet, or a token that was computed and not handed over any more.
        assert 0 <= sold["answers"] - done["answers"] <= cut_off
        assert 0 <= sold["prompt"] - done["prompt"] <= cut_off * 97
        assert 0 <= done["generated"] - sold["generated"] <= cut_off
        assert done["answers"] >= 25 - cut_off
    finally:
        await ben.stop()
        await ana.stop()
