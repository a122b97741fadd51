"""An answer is bought from another owner's device, token by token, and both keep the same account."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import time

import pytest
from support.cheats import without_layers
from support.local_nodes import ENDLESS, ON_AND_ON, ask, owners, question
from support.trade import QUICK, SEA, accounts, check_agreed, until

from ainet.api import economy, incentives, ledger, market
from ainet.api.generate import Progress, Text
from ainet.api.node import status
from ainet.client.answer import Answer
from ainet.economy.requests import Pay
from ainet.errors import AinetError, NotFound, PeerUnreachable, Refused, UsageError
from ainet.links.standing import Standing


def answer_of(done):
    answer = Answer()
    answer.add(done)
    return answer


async def test_an_answer_is_bought_token_by_token_by_who_has_no_model(tmp_path, smollm2_path):
    async with owners(tmp_path, QUICK, ana={}, ben={"discover_models": False}) as found:
        ana, ben = found.values()
        assert (await ana.call(market.sell, [])).is_on
        assert (await ana.call(status)).pipelines  # it was loaded: what a minute is worth is measured, not predicted
        own = await ask(ana, text=SEA, max_tokens=100)
        (offer,) = (await ben.call(market.offers)).offers
        assert (offer.seller, offer.model, offer.starts_in_s) == ("ana", own.model, 0)
        bought = await ask(ben, text=SEA, max_tokens=100, seller="ana")
        assert (bought.tokens, bought.text) == (own.tokens, own.text)
        assert bought.notes == ["ana reads this conversation and its answer, and nothing else of yours"]
        assert (await ask(ben, text=SEA, max_tokens=2, seller="ana")).notes == []
        assert not (tmp_path / "ben" / "store" / "tensors").exists() or not any(
            (tmp_path / "ben" / "store" / "tensors").iterdir()
        )
        (what,) = bought.bought
        assert (what.seller, what.tokens) == ("ana", len(own.tokens))
        at_ana = await check_agreed(ana, ben)
        assert at_ana.gave > what.credits > 0
        assert at_ana.lost == 0
        for node in (ana, ben):
            (row, _) = (await node.call(ledger.ledger)).rows
            assert (row.kind, row.credits, row.generated_tokens) == ("session", what.credits, len(own.tokens))
            assert row.finish in ("stop", "length")
        # What was done for Ben counts as his.
        counted = {one.asked: one for one in (await ana.call(economy.usage)).sums}
        assert counted["ben"].generated_tokens == len(own.tokens) + 2
        assert counted["ben"].prompt_tokens == 2 * own.timings.prompt_tokens


async def test_what_came_before_an_interruption_is_paid_and_nothing_else(tmp_path):
    async with owners(tmp_path, QUICK, ana={}, ben={}) as found:
        ana, ben = found.values()
        await ana.call(market.sell, [])
        n = 0
        asked = question(SEA, max_tokens=150, grammar=ENDLESS, temperature=1.0, seller="anyone")
        async with contextlib.aclosing(ben.generate(asked)) as events:
            async for event in events:
                n += len(event.tokens) if isinstance(event, Text) else 0
                if n >= 20:
                    break

        async def is_over():
            at_ana, at_ben = await accounts(ana, ben)
            return (await ana.call(market.selling)).sessions == 0 and 0 < at_ana.gave == at_ben.had

        await until(is_over)
        at_ana = await check_agreed(ana, ben)
        (row,) = (await ben.call(ledger.ledger)).rows
        assert row.generated_tokens == n
        assert row.credits == at_ana.gave
        assert row.finish == "cancelled"
        assert await ask(ben, text=SEA, seller="ana")  # and the next one is answered
        # It was not Ana's fault.
        assert "of its answers 1 came to their end, 0 did not" in (await ben.call(market.offers)).offers[0].trust_reason


async def test_a_seller_that_is_lost_hands_over_at_the_token_where_it_stopped(tmp_path):
    async with owners(tmp_path, QUICK, ben={}, ana={}, carl={}) as found:
        ben, ana, carl = found.values()
        await ana.call(market.sell, [], price="0.5")
        await carl.call(market.sell, [], price="1")
        sampling = {"max_tokens": 100, "temperature": 1.0, "seed": 7}
        own = await ask(carl, text=SEA, **sampling)
        notices, n, done = [], 0, None
        async with contextlib.aclosing(ben.generate(question(SEA, seller="anyone", **sampling))) as events:
            async for event in events:
                if isinstance(event, Progress) and event.notice:
                    notices.append(event.text)
                if isinstance(event, Text):
                    n += len(event.tokens)
                    if n > 20 and ana is not None:
                        await ana.stop()
                        ana = None
                done = event
        assert done.tokens == own.tokens
        assert done.text == own.text
        assert [one.seller for one in done.bought] == ["ana", "carl"]
        assert sum(one.tokens for one in done.bought) == len(own.tokens)
        assert ["reads this conversation" in one for one in notices] == [True, False, True]
        assert "The answer goes on elsewhere" in notices[1]
        found.pop("ana")


async def test_what_cannot_be_bought_is_said_in_one_sentence(tmp_path):
    async with owners(tmp_path, QUICK, ana={}, ben={}) as found:
        ana, ben = found.values()

        async def refused(kind, **options):
            with pytest.raises(kind) as error:
                await ask(ben, text=SEA, **options)
            return error.value.message

        assert await refused(Refused, seller="ana") == "ana sells nothing."
        await ana.call(market.sell, [], allow="1m")
        assert "No contact is called 'zoe'. Contacts are: ana." in await refused(NotFound, seller="zoe")
        assert "no --from with --private" in await refused(UsageError, seller="ana", private=True)
        assert "no --from with --context" in await refused(UsageError, seller="ana", context="auto")
        assert "ana does not sell other, but" in await refused(Refused, seller="ana", model="other")
        words = await refused(Refused, seller="ana", max_tokens=300, budget=0.5)
        assert "This answer may take" in words
        assert "of ana, and the budget is 0 seconds. " in words
        await ana.call(market.sell, [], allow="1s", price="200")
        words = await refused(Refused, seller="ana", max_tokens=300)
        assert words.startswith("ana gives you 1 second a day; ")
        assert " are left, this answer may take " in words
        assert " A first word fits at " in words
        # Between the prompt and the answer, on a slow machine and on a fast one.
        allow, words = 20, ""
        while "--max-tokens " not in words:
            allow *= 2
            await ana.call(market.sell, [], allow=f"{allow}s", price="100")
            words = await refused(Refused, seller="ana", max_tokens=1000)
        fits = int(words.split("--max-tokens ")[1].split("`")[0])
        assert len((await ask(ben, text=SEA, seller="ana", max_tokens=fits, grammar=ENDLESS)).tokens) == fits
        hour = time.localtime().tm_hour
        await ana.call(market.sell, [], hours=f"{(hour + 2) % 24}-{(hour + 3) % 24}")
        assert "o'clock; it is" in await refused(Refused, seller="ana")
        await ana.call(market.stop_selling)
        assert await refused(Refused, seller="anyone") == "ana sells nothing."
        for terms, said in (
            ({"max_load": "0%"}, "no part of the time"),
            ({"hours": "25-3"}, "no hours"),
            ({"price": "-1"}, "no price"),
            ({"price": "99999"}, "no price"),
            ({"allow": "3 years"}, "not a time"),
        ):
            with pytest.raises(UsageError, match=said):
                await ana.call(market.sell, [], **terms)
        with pytest.raises(AinetError):
            await ana.call(market.sell, ["no such model"])
        assert not (await ana.call(market.selling)).is_on


async def test_who_does_not_acknowledge_gets_a_window_and_no_more(tmp_path, monkeypatch):
    async with owners(tmp_path, QUICK, ana={"context_window": 4096}, ben={}) as found:
        ana, ben = found.values()
        await ana.call(market.sell, [])
        link = ben.links.open_link(ana.id, Standing.CONTACT)
        request, paid = link.request, []

        async def cheat(asked, **options):
            if isinstance(asked, Pay):
                paid.append(asked)
            return None if len(paid) > 1 else await request(asked, **options)

        monkeypatch.setattr(link, "request", cheat)
        asked = question(SEA, max_tokens=1500, grammar=ENDLESS, temperature=1.0, seller="ana")
        tokens, waited = [], []

        async def listen():
            async for event in ben.generate(asked):
                tokens.extend(event.tokens if isinstance(event, Text) else [])
                waited.extend([event.text] if isinstance(event, Progress) else [])

        with pytest.raises(Refused, match="Nothing was acknowledged for 3 seconds: ana has ended the session"):
            await listen()
        assert "ana: waiting" in waited
        monkeypatch.undo()
        (offer,) = (await ben.call(market.offers)).offers
        assert 0 < len(tokens) <= max(64, round(offer.tokens_per_s)) + 1

        async def is_written_off():
            return (await accounts(ana))[0].lost > 0

        await until(is_written_off)
        # What he has signed for he shows when the two meet again, and it is lost no more.
        for one in ben.links.table.links(Standing.CONTACT):
            one.close(PeerUnreachable("cut"))

        async def is_agreed():
            at_ana, at_ben = await accounts(ana, ben)
            return at_ana.gave == at_ben.had and at_ana.lost == 0

        await until(is_agreed)
        await check_agreed(ana, ben)


async def test_an_answer_of_another_model_than_the_named_one_is_found_out(tmp_path, smollm2_path):
    cheap = await asyncio.to_thread(without_layers, smollm2_path, tmp_path / "smollm2-cheap.gguf", {12, 13})
    async with owners(tmp_path, QUICK, ben={}, ana={}, carl={"model_paths": [str(cheap)]}) as found:
        ben, ana, carl = found.values()
        for seller, price in ((ana, "1"), (carl, "0.5")):
            await seller.call(market.sell, [], price=price)
        honest = await ask(ben, text=SEA, max_tokens=60, temperature=0.7, seed=3, seller="ana")
        (what,) = honest.bought
        assert what.checked <= what.check_limit
        assert what.wrong == ""
        footer = answer_of(honest).footer()
        assert f"ana · {what.tokens} tokens · " in footer
        assert f" · checked: {what.checked:.3f}, limit {what.check_limit:.3f}" in footer
        # Carl sells the model by its name and digest, and serves another one.
        obtain = carl.provider.obtain
        carl.provider.obtain = lambda request, *rest: obtain(dataclasses.replace(request, model=str(cheap)), *rest)
        for seed, wrong in ((1, True), (2, True)):
            cheat = await ask(ben, text=SEA, max_tokens=60, temperature=0.7, seed=seed, seller="carl")
            (what,) = cheat.bought
            assert (what.checked > what.check_limit) is wrong
            assert what.wrong == "this is not what smollm2 would have said: carl is trusted less"
            assert what.wrong in answer_of(cheat).footer()
        # It is the cheapest, and nobody is sent there any more, unless its owner says so.
        assert [one.seller for one in (await ask(ben, text=SEA, seller="anyone")).bought] == ["ana"]
        trusts = {one.seller: one.trust for one in (await ben.call(market.offers)).offers}
        assert trusts["carl"] == 0 < trusts["ana"]
        assert [one.seller for one in (await ask(ben, text=SEA, seller="carl")).bought] == ["carl"]


async def test_who_has_no_model_buys_the_check_of_what_anyone_answered(tmp_path, smollm2_path):
    cheap = await asyncio.to_thread(without_layers, smollm2_path, tmp_path / "smollm2-cheap.gguf", {12, 13})
    names = {"ben": {"discover_models": False}, "ana": {}, "carl": {"model_paths": [str(cheap)]}}
    async with owners(tmp_path, QUICK, **names) as found:
        ben, ana, carl = found.values()
        for seller, price in ((ana, "1"), (carl, "0.5")):
            await seller.call(market.sell, [], price=price)
        asked = {"text": SEA, "max_tokens": 60, "temperature": 0.7}
        (what,) = (await ask(ben, seed=1, seller="carl", **asked)).bought
        assert what.checked is None  # nobody else is to read it
        done = await ask(ben, seed=1, seller="anyone", **asked)
        what, check = done.bought
        assert (what.seller, what.wrong) == ("carl", "")
        assert (check.seller, check.is_check, check.tokens) == ("ana", True, 0)
        assert f" · ana · the check · {check.seconds / 60:.2g} of " in answer_of(done).footer()
        assert what.checked <= what.check_limit
        kinds = [(row.peer, row.generated_tokens) for row in (await ben.call(ledger.ledger)).rows]
        assert kinds == [("carl", 60), ("carl", 60), ("ana", 1)]
        (_, _, row) = (await ben.call(ledger.ledger)).rows
        assert row.credits == check.credits > 0
        obtain = carl.provider.obtain
        carl.provider.obtain = lambda request, *rest: obtain(dataclasses.replace(request, model=str(cheap)), *rest)
        what, _ = (await ask(ben, seed=2, seller="anyone", **asked)).bought
        assert what.seller == "carl"
        assert what.wrong == "this is not what smollm2 would have said: carl is trusted less"
        verified = await ben.call(ledger.verify)
        assert (verified.problems, sorted(verified.compared)) == ([], ["ana", "carl"])


async def test_gifts_and_bonuses_raise_what_may_be_had_and_are_their_givers(tmp_path):
    async with owners(tmp_path, QUICK, ana={}, ben={}) as found:
        ana, ben = found.values()
        with pytest.raises(UsageError, match="is known once it sells something"):
            await ben.call(ledger.give, "ana", "2h")
        for node in (ana, ben):
            await node.call(market.sell, [], allow="1m")
        with pytest.raises(NotFound, match=r"No contact is called 'zoe'\. Contacts are: ana\."):
            await ben.call(ledger.give, "zoe", "2h")
        (before,) = (await ana.call(market.offers)).offers
        given = await ben.call(ledger.give, "ana", "2h", note="the garden")
        (after,) = (await ana.call(market.offers)).offers
        assert after.left_s - before.left_s == pytest.approx(7200, rel=0.01)
        (row,) = (await ben.call(ledger.ledger)).rows
        assert (row.kind, row.credits, row.note, row.is_own) == ("gift", given.credits, "the garden", True)
        (row,) = (await ana.call(ledger.ledger)).rows
        assert (row.kind, row.credits, row.note, row.is_own) == ("gift", given.credits, "", False)
        await check_agreed(ana, ben)
        # Ben wants a model, and Ana serves it.
        tomorrow = (datetime.date.today() + datetime.timedelta(days=1)).isoformat()
        model = after.model
        state = await ben.call(incentives.want, model, 0.1, "1h", tomorrow)
        assert [(one.model, one.seconds, one.answers) for one in state.wants] == [(model, 3600, 0)]
        for wrong in (
            ("x", 1, "1h", "soon"),
            ("x", 1, "1h", "2020-01-01"),
            ("x", -1, "1h", tomorrow),
            ("x", 1, "0s", tomorrow),
        ):
            with pytest.raises(UsageError):
                await ben.call(incentives.want, *wrong)
        for number in range(20):
            await ask(ben, text=SEA, max_tokens=4, seed=number, seller="ana")
            if number == 0:
                (wanted,) = (await ana.call(incentives.earn)).wanted
                assert (wanted.peer, wanted.model, wanted.seconds) == ("ben", model, 3600)

        async def is_paid():
            return [one.kind for one in (await ana.call(ledger.ledger)).rows].count("bonus") == 1

        await until(is_paid)
        await check_agreed(ana, ben)
        with pytest.raises(UsageError, match=r"You want nothing\."):
            await ben.call(incentives.want_no_more, model)
        # What was asked for in vain, Ana sees.
        with pytest.raises(Refused):
            await ask(ben, text=SEA, seller="ana", model="larger")
        (missed,) = (await ana.call(incentives.earn)).missed
        assert (missed.reason, missed.what, missed.times) == ("model", "larger", 1)


@pytest.mark.parametrize("sessions", [1, 3])
async def test_the_owner_is_answered_also_where_others_have_all_that_may_be_had(tmp_path, sessions):
    ana_has = {"sessions": sessions, "context_window": 2048}
    async with owners(tmp_path, QUICK, ana=ana_has, ben={"discover_models": False}) as found:
        ana, ben = found.values()
        await ana.call(market.sell, [], max_load="100%", price="0.01")
        options = {"max_tokens": 400, "raw": True, "seller": "ana"}
        asked = [asyncio.create_task(ask(ben, text=ON_AND_ON, seed=n, **options)) for n in range(2)]

        async def is_going_on():
            return (await ana.call(market.selling)).sessions == 1

        await until(is_going_on)
        own = await asyncio.gather(*(ask(ana, text=f"{n}?", max_tokens=3) for n in range(3)))
        assert [len(one.tokens) for one in own] == [3, 3, 3]
        # With a slot of her own nobody of them waited for Ben's first answer; without, they came before his second.
        assert sum(task.done() for task in asked) <= (0 if sessions > 1 else 1)
        assert [len(one.tokens) for one in await asyncio.gather(*asked)] == [400, 400]


async def test_the_owner_is_answered_also_where_the_cells_are_sold(tmp_path):
    """Half of the cells are sold to one answer that has not taken them yet; the owner's question needs more."""
    async with owners(tmp_path, QUICK, ana={"context_window": 1024}, ben={"discover_models": False}) as found:
        ana, ben = found.values()
        await ana.call(market.sell, [], max_load="100%", price="0.01")
        bought = asyncio.create_task(ask(ben, text=ON_AND_ON, raw=True, max_tokens=350, seller="ana"))

        async def is_going_on():
            return (await ana.call(market.selling)).sessions == 1

        await until(is_going_on)
        assert (await ask(ana, text="a b c d e f g " * 60, raw=True, max_tokens=200)).tokens
        assert len((await bought).tokens) == 350
