"""Either side may lose its power at any moment: afterwards both agree, and nothing that was acknowledged is lost."""

from __future__ import annotations

import msgspec
import pytest
from support.local_nodes import ENDLESS, ask, owners
from support.mortal import Mortal
from support.trade import QUICK, SEA, accounts, until
from support.traders import Trader

from ainet.api import contacts, ledger, market
from ainet.economy.terms import Terms
from ainet.errors import AinetError

LEDGER = "ainet.economy.ledger:DistributedLedger"
ACCOUNT = "ainet.economy.pair_account:PairAccount"
SOLD = "ainet.economy.sold_session:SoldSession"
BOUGHT = "ainet.economy.bought_session:BoughtSession"

#: Where a buyer's power is cut, and the how manieth time that it comes there.
BUYER = [
    (f"before:{LEDGER}:begin", 1),  # before the order is written down
    (f"after:{LEDGER}:begin", 1),  # after that, before it is sent
    (f"before:{ACCOUNT}:sign", 1),  # it is sold, and nothing is acknowledged
    (f"before:{LEDGER}:note_voucher", 1),  # signed, not written down
    (f"after:{LEDGER}:note_voucher", 1),  # written down, not sent
    (f"after:{BOUGHT}:_pay", 1),  # sent: the question is being read
    (f"after:{BOUGHT}:_take", 6),  # between two tokens
    (f"before:{LEDGER}:note_voucher", 3),
    (f"after:{LEDGER}:note_voucher", 3),
    (f"before:{BOUGHT}:_done", 1),  # the receipt is there
    (f"before:{LEDGER}:end", 1),  # before it is written down
    (f"after:{LEDGER}:end", 1),
]
#: The same of a seller.
SELLER = [
    (f"before:{LEDGER}:begin", 1),
    (f"after:{LEDGER}:begin", 1),
    (f"before:{ACCOUNT}:acknowledge", 1),  # it has said that it sold
    (f"before:{LEDGER}:note_voucher", 1),  # a voucher came, and is not written down
    (f"after:{LEDGER}:note_voucher", 1),  # written down, not acted upon
    (f"before:{ACCOUNT}:charge", 1),  # the question is read
    (f"after:{ACCOUNT}:charge", 5),  # between two tokens
    (f"before:{LEDGER}:note_voucher", 3),
    (f"before:{SOLD}:_receipt", 1),  # after the last token
    (f"before:{LEDGER}:end", 1),  # after the receipt was signed
    (f"after:{LEDGER}:end", 1),
]


async def check_agreed(account, verified, other):
    """Fail unless both ledgers are in order, and say the same."""
    for one in (msgspec.to_builtins(verified), await other.do("verify")):
        assert one["problems"] == []
        assert len(one["compared"]) == 1
    theirs = await other.do("account")
    assert (account.had, account.gave) == (theirs["gave"], theirs["had"])


async def meet(trader, mortal):
    async def is_met():
        return await trader.met() and await mortal.do("met")

    await until(is_met)


async def test_a_buyer_may_lose_its_power_at_any_moment(tmp_path):
    ana = await Trader(tmp_path / "ana", "ana", terms=Terms()).start()
    ben = Mortal("trader", tmp_path / "ben", "ben")
    try:
        await ben.start()
        await ben.do("accept", (await ana.pairing.invite(purpose="introduce")).ticket)
        paid = 0
        for point, nth in BUYER:
            await meet(ana, ben)
            account = await ana.account()
            await check_agreed(account, await ana.books.verify(), ben)
            assert account.gave >= paid, point
            paid = account.gave
            await ben.do("arm", (point, nth))
            assert await ben.do("ask", {}) is None, point
            await ben.start()
        await meet(ana, ben)
        assert len(await ben.do("ask", {})) == 100
        await check_agreed(await ana.account(), await ana.books.verify(), ben)
        # Whatever was not acknowledged is within a window and half a prompt each time.
        account = await ana.account()
        assert account.lost <= len(BUYER) * 100 * (3 * 64 + 30)
        assert ana.selling.resources.sessions == 0
    finally:
        await ben.stop()
        await ana.stop()


async def test_a_seller_may_lose_its_power_at_any_moment(tmp_path):
    ben = await Trader(tmp_path / "ben", "ben").start()
    ana = Mortal("trader", tmp_path / "ana", "ana")
    try:
        await ana.start()
        await ana.do("accept", (await ben.pairing.invite(purpose="introduce")).ticket)
        had = 0
        for point, nth in SELLER:
            await meet(ben, ana)
            account = await ben.account()
            await check_agreed(account, await ben.books.verify(), ana)
            assert account.had >= had, point
            had = account.had
            await ana.do("arm", (point, nth))
            with pytest.raises(AinetError):
                await ben.ask()
            await ana.is_cut()
            await ana.start()
        await meet(ben, ana)
        assert len(await ben.ask()) == 100
        await check_agreed(await ben.account(), await ben.books.verify(), ana)
    finally:
        await ana.stop()
        await ben.stop()


@pytest.mark.timeout(240)
async def test_whole_nodes_lose_their_power_too(tmp_path):
    answer = {"text": SEA, "max_tokens": 60, "grammar": ENDLESS, "temperature": 1.0, "seller": "test"}
    async with owners(tmp_path, QUICK, test={}) as found:
        (own,) = found.values()
        await own.call(market.sell, [])
        other = Mortal("node", tmp_path / "other", "test")

        async def is_met():
            return all(one.connected for one in await own.call(contacts.contacts)) and await other.do("met")

        async def agreed():
            await until(is_met)
            verified = await own.call(ledger.verify)  # after it both have heard what the other one has signed
            await check_agreed((await accounts(own))[0], verified, other)

        try:
            await other.start()
            await other.do("accept", (await own.call(contacts.introduce)).ticket)
            await other.do("sell")
            await agreed()
            await other.do("arm", BUYER[8])
            assert await other.do("ask", answer) is None
            await other.start()
            await agreed()
            assert (await accounts(own))[0].gave > 0
            await other.do("arm", SELLER[6])
            with pytest.raises(AinetError):
                await ask(own, **answer | {"seller": (await own.call(contacts.contacts))[0].name})
            await other.is_cut()
            await other.start()
            await agreed()
            assert (await accounts(own))[0].had > 0
        finally:
            await other.stop()
