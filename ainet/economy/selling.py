"""Selling: live prices, and answers that are paid as they come."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from ainet.economy.credits import UNIT_PRICE, Rate
from ainet.economy.order import Order
from ainet.economy.pair_account import now
from ainet.economy.pricing import DynamicPricing, Load
from ainet.economy.requests import PIECE, AskPrice, Buy, CheckAnswer, Getting, Offer, Pay, Piece, Prices, SaleEvent
from ainet.economy.resource_manager import ResourceManager
from ainet.economy.sold_session import SoldSession
from ainet.economy.words import beyond_allowance
from ainet.economy.works import is_called
from ainet.errors import Busy, NotFound, PeerUnreachable, PromptTooLong, ProtocolError, Refused
from ainet.links.standing import Standing, stranger_name
from ainet.signals import Signal
from ainet.stages.protocol.flow import Flow
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Iterator

    from ainet.economy.accounts import Accounts
    from ainet.economy.demand import Demand
    from ainet.economy.pair_account import PairAccount
    from ainet.economy.places import Place
    from ainet.economy.requests import Ended
    from ainet.economy.terms import Terms
    from ainet.economy.wants import Wants
    from ainet.economy.works import SoldModel, Works
    from ainet.links.link import PeerLink
    from ainet.links.links import Links
    from ainet.timing import Timing


#: Strangers that are told a vocabulary at the same time.
MOST_TOLD = 2


class Selling:
    """Sells what the owner's terms allow.

    Parameters
    ----------
    accounts
        With whom something is bought.
    works
        What can be sold.
    demand, wants
        Learn what is asked for in vain, and what buyers promise.
    """

    def __init__(
        self,
        accounts: Accounts,
        works: Works,
        links: Links,
        *,
        demand: Demand,
        wants: Wants,
        log: logging.Logger,
        timing: Timing,
    ) -> None:
        self._accounts, self._works, self._links = accounts, works, links
        self._demand, self._wants, self._log, self._timing = demand, wants, log, timing
        self._identity = links.identity
        #: Something else is sold than before, or at another price.
        self.changed: Signal[[]] = Signal("what is sold has changed", log)
        #: On what terms; None: nothing is sold.
        self.terms: Terms | None = None
        self.models: list[SoldModel] = []
        #: Credits of what this device computes in a second.
        self.pace = 0
        #: What is left of this device for others.
        self.resources = ResourceManager(accounts.record, every=timing.sold_load, changed=self.changed.emit)
        self._told = 0
        self._tasks = Tasks("The end of a session was not written down", log)
        links.handle(AskPrice, self._price)
        links.handle(Buy, self._sell)
        links.handle(CheckAnswer, self._check)
        links.handle(Pay, self._pay)

    async def open(self, terms: Terms | None) -> None:
        """Sell on these terms from now on; None: nothing more. Sessions that go on do so.

        Raises
        ------
        AinetError
            A model cannot be sold; nothing has changed.
        """
        # What a minute is worth is settled once: it must not be what somebody has guessed.
        measure = terms is not None and not terms.pace
        models = await self._works.models(terms.models, measure=measure) if terms is not None else []
        self.terms, self.models = terms, models
        paces = [Rate(one.parameters).cost(0, 1) / one.seconds for one in models if one.seconds > 0]
        if terms is not None:
            self.pace = terms.pace or round(max(paces, default=0))
        self.resources.open(terms)
        self.changed.emit()

    async def stop(self) -> None:
        """End what is being done."""
        await self.resources.stop()
        await self._tasks.stop()

    async def _settle(self, sold: SoldSession, account: PairAccount) -> None:
        await sold.settle()
        await self._accounts.keep(account)

    # Prices.

    def offers(self, terms: Terms, *, is_stranger: bool = False) -> list[Offer]:
        """Return what is sold on these terms, at which prices now."""
        return [self._offer(terms, one, is_stranger=is_stranger) for one in self.models]

    def _offer(self, terms: Terms, model: SoldModel, *, is_stranger: bool = False) -> Offer:
        starts = self.resources.starts_in(model)
        starts += 0.0 if self._works.is_ready(model) else self._timing.first_generation
        load = Load(self.resources.load, starts)
        pricing = DynamicPricing(terms.price, is_fixed=True) if terms.price is not None else DynamicPricing()
        quote = pricing.quote(load)
        return Offer(
            model.digest,
            model.name,
            model.parameters,
            quote.price,
            quote.reason,
            self.resources.window(model, is_stranger=is_stranger),
            starts,
            1 / model.seconds if model.seconds > 0 else 0.0,
            model.tokenizer,
        )

    def _why_not(self, link: PeerLink) -> str:
        terms = self.terms
        is_stranger = link.standing is Standing.STRANGER
        if terms is None or (is_stranger and not terms.strangers):
            return f"{self._name(link)} sells nothing{' to strangers' if terms is not None else ''}."
        hour = time.localtime().tm_hour
        if terms.hours is not None and not terms.is_open(hour):
            first, last = terms.hours
            return f"{self._name(link)} sells from {first} to {last} o'clock; it is {time.strftime('%H:%M')} there."
        return ""

    def _name(self, link: PeerLink) -> str:
        """Return what this device is called by whoever is at the other end."""
        is_stranger = link.standing is Standing.STRANGER
        return stranger_name(self._identity.id) if is_stranger else self._identity.name

    async def _price(self, link: PeerLink, request: AskPrice) -> AsyncGenerator[Piece | Prices, None]:
        if request.tokenizer:
            known = [one.tokenizer for one in self.models if one.tokenizer.hash == request.tokenizer]
            if not known or self._why_not(link):
                raise NotFound("That vocabulary is of no model that is sold here.")
            with self._telling(link):
                blob = await self._works.vocabulary(known[0])
                for begin in range(0, len(blob), PIECE):
                    yield Piece(blob[begin : begin + PIECE])
        account = await self._accounts.of(link.peer_id)
        if not account.is_stranger:
            self._wants.of_others[link.peer_id] = request.wants
            self._note_price(request)
        left, daily = account.seller.left(now()), account.seller.daily
        why_not, terms = self._why_not(link), self.terms
        is_sold = terms is not None and not why_not
        offers = self.offers(terms, is_stranger=account.is_stranger) if terms is not None and is_sold else []
        yield Prices(offers, left, daily, self.pace, why_not)

    @contextlib.contextmanager
    def _telling(self, link: PeerLink) -> Iterator[None]:
        """Tell a vocabulary; to a few strangers at a time, since each can read as slowly as it likes."""
        is_stranger = link.standing is Standing.STRANGER
        if is_stranger and self._told >= MOST_TOLD:
            raise Busy("Others are being told already. Ask again soon.", retry_after=5.0)
        self._told += is_stranger
        loop, slow = asyncio.get_running_loop(), PeerUnreachable("The vocabulary was read too slowly.")
        patience = loop.call_later(self._timing.tokenizer, link.close, slow) if is_stranger else None
        try:
            yield
        finally:
            self._told -= is_stranger
            if patience is not None:
                patience.cancel()

    def _note_price(self, request: AskPrice) -> None:
        """Note a question that will not come, since what it wants is not there."""
        if self.terms is None or request.tokenizer is not None:
            return
        if not self.terms.is_open(time.localtime().tm_hour):
            self._demand.note("hour", f"{time.localtime().tm_hour} o'clock")
        elif request.model is not None and all(not is_called(one, request.model) for one in self.models):
            self._demand.note("model", request.model)

    # Sessions.

    async def _pay(self, link: PeerLink, request: Pay) -> None:
        account = await self._accounts.of(link.peer_id)
        if account.is_stranger and not account.is_selling:
            raise Refused("A stranger pays for what it is sold, and nothing else.")
        try:
            await account.acknowledge(request.voucher)
        except ProtocolError as exc:
            self._log.warning("%s sent a voucher that is none: %s", link.peer_name, exc.message)
            link.close(exc)
            raise

    def _checked(
        self, link: PeerLink, account: PairAccount, request: Buy, *, is_agreed: bool = False
    ) -> tuple[SoldModel, Order]:
        """Return what an order is about; raises `AinetError` with words for what cannot be had.

        Parameters
        ----------
        is_agreed
            Whether its price was found right before: the order itself is a part of the load by now.
        """
        terms = self.terms
        if terms is None or self._why_not(link):
            raise Refused(self._why_not(link))
        model = next((one for one in self.models if one.digest == request.model), None)
        name = self._name(link)
        if model is None:
            names = ", ".join(one.name for one in self.models)
            raise NotFound(f"{name} does not sell that model. It sells {names}.")
        prompt = len(request.prompt) + len(request.said)
        request.sampling.check()
        if self.resources.has(request.session):
            raise ProtocolError("There is a session with this id already.")
        if not request.prompt:
            raise ProtocolError("There is nothing to answer: the prompt is empty.")
        window = self.resources.window(model, is_stranger=account.is_stranger)
        if prompt + 1 > window:
            self._demand.note("length", f"{prompt} tokens")
            raise PromptTooLong(
                f"The prompt has {prompt} tokens; {name} sells {window} with the answer.",
                prompt_tokens=prompt,
                context_window=window,
            )
        most = min(request.most, window - prompt)
        price = self._offer(terms, model).price
        if price > request.price and not is_agreed:
            raise Refused(
                f"{name} asks {price / UNIT_PRICE:g} now; {request.price / UNIT_PRICE:g} was agreed.",
                price=price,
            )
        # What was agreed holds, also where it would be cheaper by now.
        order = Order(request.session, Rate(model.parameters, request.price), prompt, most)
        left = account.seller.left(now())
        if order.whole > left:
            self._demand.note("allowance")
            raise Refused(
                beyond_allowance(name, order, left, account.seller.daily, self.pace),
                left=left,
                whole=order.whole,
            )
        return model, order

    def _check(self, link: PeerLink, request: CheckAnswer) -> AsyncGenerator[SaleEvent | Ended, None]:
        return self._sell(link, request.order, request)

    async def _sell(
        self, link: PeerLink, request: Buy, judged: CheckAnswer | None = None
    ) -> AsyncGenerator[SaleEvent | Ended, None]:
        if link.standing is Standing.STRANGER and not (await self._accounts.of(link.peer_id)).has_met(link):
            raise Refused("A stranger shows its account before it buys.")
        account = await self._accounts.met(link)
        model, order = self._checked(link, account, request)
        with self._place(link, model, order) as place:
            while not await place.wait(self._timing.place_told):
                others = f"; {place.before} others come first" if place.before else ""
                yield SaleEvent(Getting(f"waiting for a place{others}"))
            # Meanwhile the owner may sell nothing more.
            model, order = self._checked(link, account, request, is_agreed=True)
            serving = self._serve(account, request, model, order, judged, name=self._name(link))
            async with contextlib.aclosing(serving) as events:
                async for event in events:
                    yield event

    def _place(self, link: PeerLink, model: SoldModel, order: Order) -> Place:
        try:
            is_stranger = link.standing is Standing.STRANGER
            return self.resources.place(link.peer_id, model, order, now(), is_stranger=is_stranger)
        except Busy:
            self._demand.note("place")
            raise

    async def _serve(
        self,
        account: PairAccount,
        request: Buy,
        model: SoldModel,
        order: Order,
        judged: CheckAnswer | None,
        *,
        name: str,
    ) -> AsyncGenerator[SaleEvent | Ended, None]:
        flow = Flow(0)
        with self.resources.serving(order.session, flow):
            sold = SoldSession(
                account,
                request,
                order,
                model,
                judged=judged,
                works=self._works,
                flow=flow,
                identity=self._identity,
                name=name,
                timing=self._timing,
            )
            loop, serving = asyncio.get_running_loop(), asyncio.current_task()
            assert serving is not None  # noqa: S101 - a request is answered in one
            try:
                async with contextlib.aclosing(sold.events()) as events:
                    async for event in events:
                        # Whoever takes nothing any more, and goes on paying for nothing, ends the session.
                        patience = loop.call_later(self._timing.session_silence, serving.cancel)
                        try:
                            yield event
                        finally:
                            patience.cancel()
            finally:
                self._tasks.spawn(self._settle(sold, account))
