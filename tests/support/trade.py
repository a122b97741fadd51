"""What tests of buying and selling have in common."""

from __future__ import annotations

import asyncio

from ainet.api import ledger
from ainet.timing import Timing

#: Nobody waits for long.
QUICK = Timing(sold_load=0.1, voucher_late=0.5, session_silence=3.0, meeting=2.0)
SEA = "Tell me of the sea."


async def until(condition, seconds=30):
    """Wait until a coroutine function returns something true, and return it."""
    async with asyncio.timeout(seconds):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
        return found


async def accounts(*nodes):
    """Return the first account of each node."""
    return [(await node.call(ledger.balance)).accounts[0] for node in nodes]


async def check_agreed(ana, ben):
    """Fail unless both ledgers are in order, and say the same."""
    for node in (ana, ben):
        verified = await node.call(ledger.verify)
        assert (verified.problems, len(verified.compared)) == ([], 1)
    at_ana, at_ben = await accounts(ana, ben)
    assert (at_ana.gave, at_ana.had) == (at_ben.had, at_ben.gave)
    return at_ana
