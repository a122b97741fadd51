"""Devices of which nothing is known: they are let in where the owner says so, for five requests and one allowance."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.trade import until
from support.traders import MODEL, SOON, Trader, befriend

from ainet.economy import requests
from ainet.economy import voucher as vouchers
from ainet.economy.checks import Verdict
from ainet.economy.credits import Rate
from ainet.economy.quotes import Quotes
from ainet.economy.requests import AskPrice, Pay, ShowAccount
from ainet.economy.signed import Parties
from ainet.economy.terms import STRANGERS, Terms
from ainet.economy.voucher import Kind
from ainet.errors import AinetError, Busy, PeerUnreachable, ProtocolError, Refused
from ainet.identity import certificates
from ainet.links import greeting
from ainet.links import strangers as links_strangers
from ainet.links.calls import MAX_EARLY
from ainet.links.frames import ChannelReset, Hello
from ainet.links.request import Probe, Request
from ainet.links.standing import Standing
from ainet.sharing.shares import TellShares
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.wire.carrier import dial

OPEN = Terms(price=1000, strangers=True)


@contextlib.asynccontextmanager
async def traders(tmp_path, *others, terms=OPEN, timing=SOON):
    """Ana, who sells, and others; nobody knows anybody."""
    found = [Trader(tmp_path / "ana", "ana", terms=terms, timing=timing)]
    found += [Trader(tmp_path / name, name, timing=timing) for name in others]
    try:
        for one in found:
            await one.start()
        yield found
    finally:
        for one in reversed(found):
            await one.stop()


def work(payer, payee, total):
    """Return a voucher of a device for work that it never received."""
    keys = [base64.b32decode(one.id.upper() + "====") for one in (payer, payee)]
    swarms = [bytes.fromhex(one.identity.swarm) for one in (payer, payee)]
    parties = Parties(*keys, *swarms)
    body = vouchers.Body(*keys, total, 0, Kind.WORK, bytes(16), 0, bytes(32), 0)
    return vouchers.sign(body, parties, payer.identity.sign)


def here(trader):
    return trader.links.table.links(Standing.STRANGER)


async def left(ana):
    return (await ana.books.balance()).strangers_left_s * ana.selling.pace


async def test_a_stranger_buys_an_answer_and_both_ledgers_agree(tmp_path):
    async with traders(tmp_path, "ben") as (ana, ben):
        assert len(await ben.ask(most=100, stranger=ana)) == 100
        (link,) = here(ben)
        assert (link.peer_name, here(ana)[0].peer_name) == (f"stranger {ana.id[:8]}", f"stranger {ben.id[:8]}")
        cost = Rate(MODEL.parameters, 1000).cost(60, 100)
        mine, theirs = await ana.accounts.of(ben.id), await ben.accounts.of(ana.id)
        assert mine.seller.balance.acknowledged == theirs.buyer.signed == cost
        for one in (ana, ben):
            assert (await one.books.verify()).problems == []
        assert await left(ana) == pytest.approx(STRANGERS * ana.selling.pace - cost, rel=0.01)
        (row,) = (await ana.books.ledger()).rows
        assert (row.credits, row.peer) == (cost, f"stranger {ben.id[:8]}")


async def test_who_has_no_dealings_with_strangers_lets_none_in(tmp_path):
    async with traders(tmp_path, "ben", terms=Terms()) as (ana, ben):
        with pytest.raises(Refused, match="no dealings with strangers"):
            await ben.meet(ana)
        await ana.links.admit_strangers(is_admitted=True)
        link = await ben.meet(ana)  # it may come, and yet nothing is sold to it
        await ben.accounts.met(link)
        prices = await link.request(AskPrice())
        assert (prices.offers, prices.why_not) == ([], f"stranger {ana.id[:8]} sells nothing to strangers.")
        assert ana.name not in prices.why_not


async def test_five_requests_are_open_to_strangers_and_nothing_else(tmp_path):
    async with traders(tmp_path, "ben") as (ana, ben):
        link = await ben.meet(ana)

        def kinds(kind):
            return {kind, *(one for each in kind.__subclasses__() for one in kinds(each))}

        opened = {kind.__name__ for kind in kinds(Request) if Standing.STRANGER.permits(kind.audience)}
        assert opened == {"ShowAccount", "AskPrice", "Buy", "Pay", "CheckAnswer"}
        for request in (Probe(1), TellShares([])):
            with pytest.raises(ProtocolError, match="does not know the request"):
                await link.request(request)
        link.send_channel_frame(ChannelReset(1, "busy", "no"))
        await link.wait_closed()


async def test_nothing_private_is_said_to_strangers(tmp_path, monkeypatch):
    said, real = [], greeting.expect

    async def note(stream, kind, *limits):
        found = await real(stream, kind, *limits)
        said.append(found)
        return found

    monkeypatch.setattr(greeting, "expect", note)
    async with traders(tmp_path, "ben") as (ana, ben):
        await ben.meet(ana)
        told = [one for one in said if isinstance(one, Hello)]
        assert len(told) == 2
        for one in told:
            assert (one.name, one.addresses, one.machine) == (one.id[:8], (), "")
        assert not (set(ana.links.book.hints()) | set(ben.links.book.hints()))


async def test_too_much_before_the_first_answer_closes_the_link(tmp_path):
    async with traders(tmp_path, "ben") as (ana, ben):
        link = await ben.meet(ana)
        order = requests.Buy(
            session=bytes(16),
            model=MODEL.digest,
            prompt=[70_000] * (MAX_EARLY // 4),
            sampling=SamplingParams(seed=1),
            most=1,
            price=1000,
        )
        with pytest.raises(AinetError):
            await link.request(order)
        await link.wait_closed()
        assert "too early" in link.error.message
        assert not here(ana)
        # Once it has shown what it holds, a long question is no offence.
        link = await ben.meet(ana)
        account = await ben.accounts.met(link)
        assert account.has_met(link)
        with pytest.raises(AinetError, match="The prompt has"):
            await link.request(order)
        assert not link.closed.is_set()


async def test_of_nine_strangers_one_that_does_nothing_must_go(tmp_path):
    names = [f"s{i}" for i in range(links_strangers.MAX_LINKS + 1)]
    async with traders(tmp_path, *names, timing=dataclasses.replace(SOON, stranger_idle=0.0)) as (ana, *others):
        links = [await one.meet(ana) for one in others]
        async with asyncio.timeout(10):
            await links[0].wait_closed()
        assert [link.closed.is_set() for link in links[1:]] == [False] * links_strangers.MAX_LINKS


async def test_where_all_are_busy_the_ninth_hears_so(tmp_path):
    names = [f"s{i}" for i in range(links_strangers.MAX_LINKS + 1)]
    async with traders(tmp_path, *names) as (ana, *others):
        with ana.selling.resources.waiting():  # the owner comes first, so nobody's answer goes on
            asked = [asyncio.create_task(one.ask(most=8, stranger=ana)) for one in others[:-1]]

            async def all_wait():
                return ana.selling.resources.queue == len(asked)

            await until(all_wait)
            with pytest.raises(Busy, match="8 strangers are here already"):
                await others[-1].meet(ana)
        assert [len(one) for one in await asyncio.gather(*asked)] == [8] * len(asked)


async def test_a_link_that_is_not_used_is_closed_after_a_while(tmp_path):
    async with traders(tmp_path, "ben", timing=dataclasses.replace(SOON, stranger_unused=0.2)) as (ana, ben):
        link = await ben.meet(ana)
        async with asyncio.timeout(10):
            await link.wait_closed()
        assert len(await ben.ask(most=4, stranger=ana)) == 4


async def test_whoever_is_known_is_no_stranger(tmp_path):
    async with traders(tmp_path, "ben") as (ana, ben):
        await befriend(ana, ben)
        with pytest.raises(Refused, match="know each other"):
            await ben.meet(ana)
    async with traders(tmp_path / "swarm", "phone") as (ana, phone):
        await phone.joins(ana)
        with pytest.raises(Refused, match="no strangers"):
            await phone.meet(ana)


async def test_another_ca_than_that_of_the_certificate_proves_nothing(tmp_path):
    async with traders(tmp_path, "ben") as (ana, ben):
        other = certificates.make_ca(Ed25519PrivateKey.generate(), ben.identity.now())
        ben.links.strangers._own_greeting = lambda: (  # what a thief of names would send
            links_strangers.GREETING + len(certificates.to_der(other)).to_bytes(2, "big") + certificates.to_der(other)
        )
        with pytest.raises(AinetError):
            await (await ben.meet(ana)).request(AskPrice())
        assert not here(ana)


@pytest.mark.parametrize(
    "said",
    [
        links_strangers.GREETING + b"\xff\xff",
        links_strangers.GREETING + b"\x00\x05hello",
        links_strangers.GREETING[:5],
        b"GET / HTTP/1.1\r\n\r\n",
        links_strangers.GREETING + b"\x00\x00",
    ],
)
async def test_what_is_no_greeting_comes_to_nothing(tmp_path, said):
    async with traders(tmp_path, "ben", timing=dataclasses.replace(SOON, greeting=1.0)) as (ana, ben):
        carrier = await dial(ana.links.address)
        carrier.write(said)
        async with asyncio.timeout(10):
            while await carrier.read():
                pass
        carrier.cut()
        await ben.meet(ana)  # others still may come


async def test_all_strangers_together_have_one_allowance_that_outlives_a_restart(tmp_path):
    names = [f"s{i}" for i in range(4)]
    async with traders(tmp_path, *names) as (ana, *others):
        whole = STRANGERS * ana.selling.pace
        each = Rate(MODEL.parameters, 1000)
        most = each.tokens_for(whole // 2 - 1, 60)  # two of these fit, and not three
        assert await left(ana) == whole
        for one in others[:2]:
            assert len(await one.ask(most=min(most, 900), stranger=ana)) == min(most, 900)
        used = whole - await left(ana)
        assert used == pytest.approx(2 * each.cost(60, min(most, 900)), rel=0.02)
        await ana.stop()
        await ana.open().start()
        assert whole - await left(ana) == pytest.approx(used, rel=0.02)
        # What is left is as much for a new name as for an old one.
        for one in (others[0], others[3]):
            link = await one.meet(ana)
            await one.accounts.met(link)
            prices = await link.request(AskPrice())
            assert prices.left == pytest.approx(whole - used, rel=0.02)


async def test_of_who_only_asks_nothing_is_kept(tmp_path):
    async with traders(tmp_path, "ben", "carl") as (ana, ben, carl):
        link = await ben.meet(ana)
        await ben.accounts.met(link)
        await link.request(AskPrice())
        await carl.ask(most=3, stranger=ana)
        for one in (link, *here(carl)):
            one.close(PeerUnreachable("cut"))

        async def nobody_is_here():
            return not here(ana) and not ana.accounts._open

        await until(nobody_is_here)
        ledger = await ana.accounts.ledger()
        kept = await ana.accounts.do(ledger.accounts)
        assert [base64.b32encode(one.parties.payee).decode().rstrip("=").lower() for one in kept] == [carl.id]


async def test_a_stranger_pays_for_what_it_is_sold_and_nothing_else(tmp_path):
    async with traders(tmp_path, "ben") as (ana, ben):
        link = await ben.meet(ana)
        account = await ben.accounts.met(link)
        voucher = await account.give(1000, Kind.GIFT)
        with pytest.raises(Refused, match="nothing else"):
            await link.request(Pay(voucher))


async def test_an_introduction_makes_a_contact_of_a_stranger_and_the_account_goes_on(tmp_path):
    async with traders(tmp_path, "ben") as (ana, ben):
        await ben.ask(most=50, stranger=ana)
        cost = Rate(MODEL.parameters, 1000).cost(60, 50)
        await befriend(ana, ben)
        assert (await ana.account()).gave == (await ben.account()).had == cost
        assert not here(ana)
        await ben.ask(most=50)
        assert (await ana.account()).gave == 2 * cost
        assert (await ana.books.verify()).problems == []


async def test_a_lost_link_takes_what_was_not_acknowledged_from_all_strangers(tmp_path):
    async with traders(tmp_path, "ben") as (ana, ben):
        before = await left(ana)
        with contextlib.suppress(AinetError):
            link = await ben.meet(ana)
            await ben.ask(
                most=500,
                stranger=ana,
                between=lambda: asyncio.get_running_loop().call_later(0.05, link.close, PeerUnreachable("cut")),
            )

        async def nobody_is_here():
            return not ana.accounts._open

        await until(nobody_is_here)
        used = before - await left(ana)
        balance = (await ana.accounts.do((await ana.accounts.ledger()).accounts))[0].balance
        assert used == pytest.approx(balance.level, abs=ana.selling.pace)


def test_a_ca_is_small_enough_for_its_greeting():
    ca = certificates.make_ca(Ed25519PrivateKey.generate(), 1e9)
    assert len(certificates.to_der(ca)) < links_strangers.MAX_CA / 2


async def test_a_stranger_that_acknowledges_too_much_is_sent_away(tmp_path):
    async with traders(tmp_path, "ben") as (ana, ben):
        asked = asyncio.create_task(ben.ask(most=1900, stranger=ana))

        async def is_sold():
            return bool(here(ana)) and (await ana.accounts.of(ben.id)).is_selling

        await until(is_sold)
        (link,) = here(ben)
        account = await ben.accounts.of(ana.id)
        voucher = await account.give(10**9, Kind.GIFT)
        with pytest.raises(AinetError):
            await link.request(Pay(voucher))
        await link.wait_closed()
        await asyncio.gather(asked, return_exceptions=True)
        assert all(row.credits < 10**9 for row in (await ana.books.ledger()).rows)


async def test_what_a_stranger_shows_uses_up_nothing_and_leaves_no_row(tmp_path):
    async with traders(tmp_path, "ben") as (ana, ben):
        link = await ben.meet(ana)
        before = await left(ana)
        for total in (10**6, 10**15):
            voucher = work(ben, ana, total)
            await link.request(ShowAccount(None, voucher))
        assert (await ana.books.ledger()).rows == []
        assert await left(ana) == before
        # What is shown counts where something is bought: a device that was restored goes on from there.
        account = await ben.accounts.met(link)
        await account.take_shown(None, work(ben, ana, 10**6), None)
        assert len(await ben.ask(most=20, stranger=ana)) == 20
        assert {row.kind for row in (await ana.books.ledger()).rows} == {"session", "recovered"}
        assert (await ana.books.verify()).problems == []
        cost = Rate(MODEL.parameters, 1000).cost(60, 20)
        assert before - await left(ana) == pytest.approx(cost, rel=0.01)
        await ana.stop()
        await ana.open().start()
        assert before - await left(ana) == pytest.approx(cost, rel=0.01)


async def test_a_stranger_that_lied_is_not_trusted_when_it_comes_again(tmp_path):
    async with traders(tmp_path, "ben") as (ana, ben):
        quotes = Quotes(ben.links, ben.accounts, ben.wants, SOON)
        for _ in range(2):
            await ben.ask(most=3, stranger=ana)
        (quoted,), _ = await quotes.ask([ana.id])
        assert 0 < quoted.trust < 0.5
        assert quoted.trust_reason.startswith("a stranger counts half; ")
        for row in (await ben.books.ledger()).rows:
            await ben.accounts.note_check(bytes.fromhex(row.session), Verdict(0.5, 0.1))
        (link,) = here(ben)
        link.close(PeerUnreachable("cut"))
        await link.wait_closed()
        await ben.meet(ana)
        (quoted,), _ = await quotes.ask([ana.id])
        assert quoted.trust == 0


async def test_not_too_many_come_at_once(tmp_path):
    async with traders(tmp_path, "ben") as (ana, ben):
        knock = ben.links.strangers._own_greeting()

        async def answered():
            carrier = await dial(ana.links.address)
            carrier.write(knock)
            try:
                return bool(await carrier.read())
            finally:
                await links_strangers.give_up(carrier)

        came = 0
        while await answered():
            came += 1
            assert came < 1000
        assert came >= links_strangers.MOST_GREETINGS


async def test_a_contact_that_was_forgotten_is_a_stranger_like_others(tmp_path):
    async with traders(tmp_path, "ben") as (ana, ben):
        await befriend(ana, ben)
        await ben.ask(most=5)
        for one, other in ((ana, ben), (ben, ana)):
            one.links.trust.forget(other.name)
        await ben.ask(most=5, stranger=ana)
        account = await ana.accounts.of(ben.id)
        assert (account.is_stranger, account.seller.shared is not None) == (True, True)
        # What it had as a contact is not taken from what strangers share.
        cost = Rate(MODEL.parameters, 1000).cost(60, 5)
        assert STRANGERS * ana.selling.pace - await left(ana) == pytest.approx(cost, rel=0.01)


async def test_after_something_was_shown_a_stranger_pays_for_what_it_is_sold_and_nothing_else(tmp_path):
    async with traders(tmp_path, "ben") as (ana, ben):
        link = await ben.meet(ana)
        await link.request(ShowAccount(None, work(ben, ana, 10**9)))
        mine = await ana.accounts.of(ben.id)
        account = await ben.accounts.met(link)
        await account.take_shown(None, work(ben, ana, 10**9), None)
        await ben.ask(most=3, stranger=ana)
        total = mine.seller.balance.acknowledged
        assert total > 10**9
        with pytest.raises(ProtocolError):
            await mine.acknowledge(work(ben, ana, total + 1))
        assert len((await ana.books.ledger()).rows) == 2
