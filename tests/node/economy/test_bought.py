"""An answer is bought from another owner's device, token by token, and both keep the same account."""

from __future__ import annotations

from support.local_nodes import ask, owners

from ainet.api import ledger, market
from ainet.timing import Timing

QUICK = Timing(sold_load=0.1)


async def test_an_answer_is_bought_token_by_token(tmp_path):
    async with owners(tmp_path, QUICK, ana={}, ben={}) as found:
        ana, ben = found.values()
        state = await ana.call(market.sell, [])
        assert state.is_on
        own = await ask(ana, text="Tell me of the sea.", max_tokens=40)
        (offer,) = (await ben.call(market.offers)).offers
        assert (offer.seller, offer.model, offer.starts_in_s) == ("ana", own.model, 0)
        bought = await ask(ben, text="Tell me of the sea.", max_tokens=40, seller="ana", model=own.model)
        assert bought.tokens == own.tokens
        assert bought.text == own.text
        (what,) = bought.bought
        assert (what.seller, what.tokens) == ("ana", len(own.tokens))
        (at_ana,) = (await ana.call(ledger.balance)).accounts
        (at_ben,) = (await ben.call(ledger.balance)).accounts
        assert at_ana.gave == at_ben.had == what.credits > 0
        assert at_ana.lost == 0
        for node in (ana, ben):
            verified = await node.call(ledger.verify)
            assert (verified.problems, len(verified.compared)) == ([], 1)
            (row,) = (await node.call(ledger.ledger)).rows
            assert (row.kind, row.credits, row.generated_tokens) == ("session", what.credits, len(own.tokens))
            assert row.finish in ("stop", "length")
