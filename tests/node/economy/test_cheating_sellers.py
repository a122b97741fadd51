"""What a seller may try: nothing is paid for nothing, and the answer goes on elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses

import msgspec
import pytest
from support.local_nodes import ask, owners, question
from support.trade import QUICK, SEA

from ainet.api import ledger, market
from ainet.api.generate import Done, Progress, Text
from ainet.economy.receipt import Finish
from ainet.economy.requests import AskPrice, Getting, Judged, Prices, SaidTokens, SaleEvent
from ainet.economy.selling import Selling
from ainet.economy.sold_session import SoldSession
from ainet.errors import AinetError, ProtocolError, Refused, UsageError

SOON = dataclasses.replace(QUICK, getting_ready=4.0)
ASKED = {"text": SEA, "max_tokens": 40, "temperature": 0.7, "seed": 5}
_answer = SoldSession._answer


def cheat(monkeypatch, answer):
    """Have Ana answer in another way; the others do as they should."""

    def chosen(self, ready):
        return answer(self, ready) if self._name == "ana" else _answer(self, ready)

    monkeypatch.setattr(SoldSession, "_answer", chosen)


async def nothing(self, ready):
    """End at once."""
    self._finish = Finish.STOP
    return
    yield


async def nothing_for_no_reason(self, ready):
    self._finish = Finish.LENGTH
    return
    yield


async def cut_short(self, ready, finish=Finish.STOP, most=12):
    """End after some tokens."""
    n = 0
    async with contextlib.aclosing(_answer(self, ready)) as events:
        async for event in events:
            if n >= most:
                break
            yield event
            n = len(self._said)
    self._finish = finish


async def cut_short_for_no_reason(self, ready):
    async with contextlib.aclosing(cut_short(self, ready, Finish.CANCELLED)) as events:
        async for event in events:
            yield event


async def other_text(self, ready):
    async with contextlib.aclosing(_answer(self, ready)) as events:
        async for event in events:
            said = event.event
            yield SaleEvent(msgspec.structs.replace(said, text="buy more! ")) if isinstance(said, SaidTokens) else event


async def text_alone(self, ready):
    yield SaleEvent(SaidTokens(0, [], "buy more!"))


async def too_much_text(self, ready):
    async with contextlib.aclosing(_answer(self, ready)) as events:
        async for event in events:
            said = event.event
            yield (
                SaleEvent(msgspec.structs.replace(said, text="x" * 100_000)) if isinstance(said, SaidTokens) else event
            )


async def no_token(self, ready):
    await self._charge(1)
    yield SaleEvent(SaidTokens(0, [49_152], "x"))


async def judged(self, ready):
    yield SaleEvent(Judged([0.0]))


async def blamed(self, ready):
    raise UsageError("Your question makes no sense.")
    yield


async def getting_ready(self, ready):
    while True:
        await self._account.changed(0.2)
        yield SaleEvent(Getting("nearly there"))


@pytest.fixture
async def trio(tmp_path):
    """Ben, who has the model, Ana, who is cheap, and Carl."""
    async with owners(tmp_path, SOON, ben={}, ana={}, carl={}) as found:
        ben, ana, carl = found.values()
        await ana.call(market.sell, [], price="0.02")
        await carl.call(market.sell, [], price="1")
        own = await ask(ben, **ASKED)
        yield ben, ana, own


async def bought(ben, **options):
    """Return what of an answer a reader must know, its text as it came, and its end."""
    notices, said, done = [], "", None
    async for event in ben.generate(question(**(ASKED | options))):
        if isinstance(event, Progress) and event.notice:
            notices.append(event.text)
        elif isinstance(event, Text):
            said += event.text
        done = event
    assert isinstance(done, Done)
    return notices, said, done


async def test_who_does_not_keep_to_the_rules_is_left_for_the_next_one(trio, monkeypatch):
    ben, _, own = trio
    for answer, words in (
        (nothing_for_no_reason, "ana has ended its answer after 0 of 40 tokens, for no reason."),
        (cut_short_for_no_reason, "of 40 tokens, for no reason."),
        (text_alone, "ana sends text without the tokens that say it."),
        (too_much_text, "ana sends text without the tokens that say it."),
        (no_token, "ana sends tokens that its model does not have."),
        (judged, "ana has judged what it was not asked to judge."),
        (blamed, "Your question makes no sense."),
        (getting_ready, "ana has done nothing but get ready for 7.6 seconds."),
    ):
        cheat(monkeypatch, answer)
        notices, said, done = await bought(ben, seller="anyone")
        assert any(words in one for one in notices), (answer, notices)
        assert (done.tokens, done.text, said) == (own.tokens, own.text, own.text), answer
        assert [one.seller for one in done.bought] == ["ana", "carl"]
        assert [one.wrong for one in done.bought] == ["", ""], answer
        n = sum(one.tokens for one in done.bought)
        assert n == len(own.tokens)
        with pytest.raises(AinetError, match=r"no reason|sends t|judged|no sense|get ready"):
            await ask(ben, **ASKED, seller="ana")
    assert (await ben.call(ledger.verify)).problems == []


async def test_an_answer_that_is_not_to_its_end_or_in_other_words_is_found_out(trio, monkeypatch):
    ben, _, own = trio
    ends = "it ends where it could not have ended: ana is trusted less"
    for answer, stop, wrong in ((nothing, [], ends), (cut_short, [], ends), (cut_short, ["no such text"], ends)):
        cheat(monkeypatch, answer)
        _, _, done = await bought(ben, seller="ana", stop=stop)
        assert [one.wrong for one in done.bought] == [wrong], answer
        assert done.finish == "stop"
    # What its owner said was to end it may end it.
    monkeypatch.setattr(SoldSession, "_answer", _answer)
    words = own.text.split()
    _, _, done = await bought(ben, seller="ana", stop=[words[8]])
    assert [one.wrong for one in done.bought] == [""]
    assert done.bought[0].checked is not None
    cheat(monkeypatch, other_text)
    _, said, done = await bought(ben, seller="ana")
    assert said.startswith("buy more! buy more! ")
    assert done.text == own.text
    assert done.bought[0].wrong == "it sent a text that is not that of its tokens: ana is trusted less"
    offers = (await ben.call(market.offers)).offers
    assert {one.seller: one.trust for one in offers}["ana"] == 0


async def test_who_breaks_off_is_checked_all_the_same(trio, monkeypatch):
    ben, _, _ = trio

    async def other_tokens(self, ready):
        await self._charge(20)
        yield SaleEvent(SaidTokens(0, list(range(300, 320)), "x"))
        self._said = list(range(300, 320))
        raise ProtocolError("That is all.")

    cheat(monkeypatch, other_tokens)
    _, _, done = await bought(ben, seller="anyone")
    wrong = {one.seller: one.wrong for one in done.bought}
    assert wrong == {"ana": "this is not what smollm2 would have said: ana is trusted less", "carl": ""}


async def test_a_price_that_does_not_fit_the_model_is_not_paid(trio, monkeypatch):
    ben, ana, own = trio
    offer, pace = Selling._offer, [0]
    kind, price = ana.links.table._handlers[AskPrice.__name__]

    def dear(self, *args, **options):
        made = offer(self, *args, **options)
        return msgspec.structs.replace(made, parameters=10 * made.parameters) if self._identity.id == ana.id else made

    async def of_another_pace(link, request):
        async for one in price(link, request):
            yield msgspec.structs.replace(one, pace=pace[0]) if isinstance(one, Prices) else one

    monkeypatch.setattr(Selling, "_offer", dear)
    with pytest.raises(Refused, match=r"ana counts 1,\d\d\d million parameters of smollm2, which has 1\d\d: its price"):
        await ask(ben, **ASKED, seller="ana", model=own.model)
    monkeypatch.undo()
    monkeypatch.setitem(ana.links.table._handlers, AskPrice.__name__, (kind, of_another_pace))
    with pytest.raises(Refused, match="ana does not say how fast it is, and so not what an answer costs"):
        await ask(ben, **ASKED, seller="ana")
    pace[0] = 1  # it would take three quarters of an hour
    with pytest.raises(Refused, match=r"This answer may take .* minutes of ana, and the budget is 30 minutes\."):
        await ask(ben, **(ASKED | {"max_tokens": 300}), seller="ana")
    assert (await ben.call(ledger.ledger)).rows == []
