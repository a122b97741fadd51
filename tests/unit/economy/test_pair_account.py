"""The account with another device: what several do at the same time, and what goes on although its caller is gone."""

from __future__ import annotations

import asyncio
import threading

import msgspec
import pytest
from support.market_pair import ANA, BEN, PARTIES, RATE, raw, voucher

from ainet.economy.balance import Allowance, Balance
from ainet.economy.ledger import DistributedLedger, Model
from ainet.economy.order import Order
from ainet.economy.pair_account import PairAccount
from ainet.economy.sale import Stage
from ainet.economy.voucher import Body, Kind
from ainet.errors import NotEnough
from ainet.identity.keys import node_id

MODEL = Model(bytes(32), "small", RATE.parameters)
PLENTY = Allowance(10**9, 10**9, 10**9)


class Disk:
    """Runs work on a ledger in a thread, as slowly as a test wants."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.is_full = False

    async def do(self, work):
        def slowly():
            if self.is_full:
                raise NotEnough("The disk is full.")
            found = work()
            self.may_go_on.wait(10)
            return found

        return await asyncio.to_thread(slowly)


@pytest.fixture
def disk():
    return Disk()


@pytest.fixture
def account(tmp_path, disk):
    """Ana's account with Ben, who buys."""
    ledger = DistributedLedger(tmp_path / "ledger.sqlite", raw(ANA), PARTIES.payee_swarm)
    found = ledger.account(raw(BEN), PARTIES.payer_swarm, new=Balance.new(1, PLENTY))
    yield PairAccount(
        node_id(BEN.public_key()),
        "ben",
        found,
        PLENTY,
        ledger=ledger,
        journal=disk.do,
        signer=ANA.sign,
        patience=30.0,
    )
    ledger.close()


async def sold(account, number, most=200):
    """Sell a session whose first half is acknowledged; returns its id."""
    order = Order(number.to_bytes(16, "big"), RATE, 10, most)
    await account.sell(order, MODEL, window=0)
    await account.acknowledge(voucher(account.seller.charged, order.session))
    return order.session


async def test_sessions_that_charge_at_the_same_time_share_one_window(account):
    sessions = [await sold(account, number) for number in (1, 2, 3)]
    for session in sessions:
        assert await account.charge(session, 1) == 1
    charged = await asyncio.gather(*(account.charge(session, 50) for session in sessions))
    assert 0 < sum(charged) < 150
    assert account.seller.unacknowledged <= account.seller.window + 3 * RATE.cost(10, 0)
    assert await account.charge(bytes(16), 5) == 0  # there is no such session


async def test_a_voucher_that_is_being_written_down_counts_although_its_bringer_is_gone(account, disk):
    session = await sold(account, 1)
    assert await account.charge(session, 1) == 1
    newest = voucher(account.seller.charged, session, tokens=1)
    disk.may_go_on.clear()
    paying = asyncio.create_task(account.acknowledge(newest))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    paying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await paying
    disk.may_go_on.set()
    async with asyncio.timeout(10):
        while account.held != newest:
            await asyncio.sleep(0.01)
    assert account.seller.unacknowledged == 0


def said(given):
    return msgspec.msgpack.decode(given.body, type=Body)


async def test_what_cannot_be_written_down_is_not_given_and_not_paid(account, disk):
    order = Order(bytes(range(16)), RATE, 10, 100)
    purchase = await account.buy(order, MODEL)
    half = account.buyer.sold(order.session, 10, RATE.price, 1)
    disk.is_full = True
    with pytest.raises(NotEnough):
        await account.give(1000, Kind.BONUS)
    with pytest.raises(NotEnough):
        await account.sign(half)
    assert (account.buyer.signed, account.buyer.gifts, purchase.signed, account.signed) == (0, 0, 0, None)
    disk.is_full = False
    signs = account.buyer.said(order.session, 0, 1, 2)  # it is signed for with what comes
    assert said(await account.sign(signs, [7])).total == order.so_far(1) == account.buyer.signed
    newest = said(await account.give(1000, Kind.GIFT))
    assert (newest.total, newest.gifts) == (order.so_far(1) + 1000, 1000)
    # Of two that are signed at the same time, one fails: the other one is of what it was for.
    first = account.buyer.said(order.session, 1, 20, 3)
    disk.is_full = True
    with pytest.raises(NotEnough):
        await account.sign(first, range(21))
    disk.is_full = False
    newest = said(await account.give(5, Kind.GIFT))
    assert (newest.total, newest.gifts) == (order.so_far(1) + 1005, 1005)
    assert said(await account.sign(account.buyer.end(order.session), range(21))).total == order.so_far(21) + 1005
    await account.end_purchase(purchase, None)


async def test_a_session_goes_on_when_another_one_is_over_that_left_something_unpaid(account):
    first = await sold(account, 1)
    paid = account.seller.charged
    assert await account.charge(first, 1) == 1
    second = Order((2).to_bytes(16, "big"), RATE, 10, 50)
    await account.sell(second, MODEL, window=0)
    # Half of the second prompt is acknowledged, but not what came of the first answer; then that one is interrupted.
    await account.acknowledge(voucher(paid + second.half, second.session))
    assert account.sale(second.session).stage is Stage.SOLD
    await account.end_sale(first, None)
    assert account.sale(second.session).stage is Stage.READING


async def test_a_voucher_that_cannot_be_written_down_does_not_count_and_can_come_again(account, disk):
    order = Order((1).to_bytes(16, "big"), RATE, 10, 200)
    await account.sell(order, MODEL, window=0)
    half = voucher(order.half, order.session)
    disk.is_full = True
    with pytest.raises(NotEnough):
        await account.acknowledge(half)
    sale = account.sale(order.session)
    assert (sale.stage, sale.acknowledged, account.seller.balance.acknowledged) == (Stage.SOLD, 0, 0)
    assert account.seller.unacknowledged == order.half
    disk.is_full = False
    await account.acknowledge(half)
    assert (sale.stage, sale.acknowledged, account.held) == (Stage.READING, order.half, half)
