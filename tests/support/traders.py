"""Devices of different owners that buy and sell: real links, ledgers and sessions; only the answers are made up."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from typing import TYPE_CHECKING, Any

from ainet.api.answers import Answers
from ainet.economy.accounts import Accounts
from ainet.economy.balance import Allowance
from ainet.economy.bookkeeping import Bookkeeping
from ainet.economy.bought_session import BoughtSession
from ainet.economy.credits import Rate
from ainet.economy.demand import Demand
from ainet.economy.ledger import Model
from ainet.economy.order import Order
from ainet.economy.requests import AskPrice, Buy, SaidTokens
from ainet.economy.selling import Selling
from ainet.economy.wants import Wants
from ainet.economy.works import SoldModel
from ainet.links.standing import Standing
from ainet.models.tokenizer import Tokenizer
from ainet.stages.protocol.generation import Done, Started, Text
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.swarm.feeds import Feeds
from support.swarms import Device
from support.trade import QUICK, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from ainet.api import ledger as shown
    from ainet.economy.terms import Terms
    from ainet.links.link import PeerLink

#: Devices that lost each other meet again soon.
SOON = dataclasses.replace(QUICK, first_retry=0.05, last_retry=0.2)
DIGEST = "a" * 64
#: It is not fast, so that 64 tokens are more than a second of it.
MODEL = SoldModel(bytes.fromhex(DIGEST), "made up", 100, 4096, Tokenizer(DIGEST, 1, DIGEST, 1), 0.02, 10)


class MadeUp:
    """Answers with a number after the other, as far as it may."""

    def __init__(self) -> None:
        self.read = 0

    async def models(self, _names: Any, *, measure: bool = False) -> list[SoldModel]:
        return [MODEL]

    async def vocabulary(self, _tokenizer: Any) -> bytes:
        return b"x"

    def is_ready(self, _model: Any) -> bool:
        return True

    async def ready(self, _model: Any, _requester: str):
        yield "getting ready"
        yield self

    async def answer(self, request: Any, flow: Any):
        """Go on from what was said before."""
        self.read += 1
        wake = asyncio.Event()
        flow.connect(lambda _: wake.set())
        yield Started(1, request.resume.prompt)
        said = len(request.resume.generated)
        while said < request.max_tokens:
            wake.clear()
            if flow.now <= said:
                await wake.wait()
                continue
            said += 1
            yield Text(1, "x", [said])
            await asyncio.sleep(0)
        yield Done(1, "length", "")


class Trader(Device):
    """A device that buys and sells."""

    def __init__(self, folder: Any, name: str, *, terms: Terms | None = None, timing: Any = SOON, **settings: Any):
        super().__init__(folder, name, timing=timing, **settings)
        self.terms = terms

    async def start(self) -> Trader:
        self.works = MadeUp()
        self.feeds = Feeds(self.links, self.folder / "logs.sqlite", self.log)
        self.accounts = Accounts(
            self.folder / "ledger.sqlite",
            self.links,
            self.feeds,
            self.log,
            allowance=self._allowance,
            shared=self._shared,
            timing=self.timing,
        )
        self.wants = Wants(self.folder / "wants.json", self.log)
        self.demand = Demand(self.folder / "demand.json", self.log)
        self.selling = Selling(
            self.accounts,
            self.works,
            self.links,
            demand=self.demand,
            wants=self.wants,
            log=self.log,
            timing=self.timing,
        )
        self.books = Bookkeeping(self.accounts, self.selling, self.links, Answers(), self.log)
        if self.terms is not None:
            await self.selling.open(self.terms)
            await self.links.admit_strangers(is_admitted=self.terms.strangers)
        await super().start()
        return self

    async def stop(self) -> None:
        if self.running:
            await self.selling.stop()
            await self.accounts.stop()
            await self.wants.flush()
            await self.demand.flush()
            await self.feeds.stop()
        await super().stop()

    def _allowance(self) -> Allowance:
        return self.selling.terms.allowance(self.selling.pace) if self.selling.terms else Allowance(0, 0, 0)

    def _shared(self) -> Allowance:
        terms = self.selling.terms
        return terms.shared_allowance(self.selling.pace) if terms else Allowance(0, 0, 0)

    async def account(self) -> shown.PairBalance:
        """Return the account with the only contact."""
        (found,) = (await self.books.balance()).accounts
        return found

    async def met(self) -> bool:
        """Tell whether both sides have shown their accounts on all links that are open."""
        links = self.links.table.links(Standing.CONTACT)
        return bool(links) and all([(await self.accounts.of(link.peer_id)).has_met(link) for link in links])

    async def meet(self, other: Trader) -> PeerLink:
        """Return a link to a device of which nothing is known."""
        open_link = self.links.open_link(other.id, Standing.STRANGER)
        return open_link or await self.links.strangers.meet(other.links.address)

    async def ask(
        self,
        most: int = 100,
        prompt: int = 60,
        said: int = 0,
        between: Callable[[], object] = lambda: None,
        stranger: Trader | None = None,
    ) -> list[int]:
        """Buy an answer of the only contact, or of a stranger; returns its tokens. `between`: the price is known."""
        if stranger is not None:
            link = await self.meet(stranger)
        else:
            (contact,) = self.identity.contacts.all()
            link = await self.links.connect(contact.id, Standing.CONTACT)
        account = await self.accounts.met(link)
        prices = await link.request(AskPrice())
        (offer,) = prices.offers
        order = Order(secrets.token_bytes(16), Rate(offer.parameters, offer.price), prompt + said, most)
        request = Buy(
            session=order.session,
            model=offer.model,
            prompt=list(range(prompt)),
            said=list(range(said)),
            sampling=SamplingParams(seed=1),
            most=most,
            price=offer.price,
        )
        between()
        model = Model(offer.model, offer.name, offer.parameters)
        session = BoughtSession(
            account, link, request, order, model=model, log=self.log, getting_ready=60, n_tokens=5000
        )
        tokens: list[int] = []
        async with contextlib.aclosing(session.events()) as events:
            async for event in events:
                tokens += event.tokens if isinstance(event, SaidTokens) else []
        return tokens


async def befriend(one: Trader, other: Trader) -> None:
    """Make two devices contacts, and wait until they have met."""
    await other.pairing.accept((await one.pairing.invite(purpose="introduce")).ticket)
    await until(lambda: both_met(one, other))


async def both_met(*traders: Trader) -> bool:
    return all([await one.met() for one in traders])


async def check_agreed(ana: Trader, ben: Trader) -> shown.PairBalance:
    """Fail unless both ledgers are in order, and say the same; returns the account of the first one."""
    for one in (ana, ben):
        verified = await one.books.verify()
        assert (verified.problems, len(verified.compared)) == ([], 1)
    at_ana, at_ben = await ana.account(), await ben.account()
    assert (at_ana.gave, at_ana.had) == (at_ben.had, at_ben.gave)
    return at_ana
