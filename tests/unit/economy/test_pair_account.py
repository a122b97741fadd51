"""The account with another device: what several do at the same time, and what goes on although its caller is gone."""

from __future__ import annotations

import asyncio
import threading

import pytest
from support.market_pair import ANA, BEN, PARTIES, RATE, raw, voucher

from ainet.economy.balance import Allowance, Balance
from ainet.economy.ledger import DistributedLedger, Model
from ainet.economy.order import Order
from ainet.economy.pair_account import PairAccount
from ainet.identity.keys import node_id

MODEL = Model(bytes(32), "small", RATE.parameters)
PLENTY = Allowance(10**9, 10**9, 10**9)


class Disk:
    """Runs work on a ledger in a thread, as slowly as a test wants."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    async def do(self, work):
        def slowly():
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
