"""The market as the owner sees it: what this device sells, and what others do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from ainet.api import market as shown
from ainet.economy.credits import UNIT_PRICE
from ainet.economy.terms import (
    AUTO,
    MOST_MODELS,
    STRANGERS,
    Terms,
    parse_hours,
    parse_price,
    parse_share,
    read_terms,
    write_terms,
)
from ainet.economy.words import seconds_of
from ainet.errors import AinetError, UsageError
from ainet.units import parse_seconds

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from ainet.api.answers import Answers
    from ainet.economy.accounts import Accounts
    from ainet.economy.quotes import Quotes
    from ainet.economy.selling import Selling
    from ainet.links.links import Links


#: Said to an owner who sells to strangers that cannot find the device.
LONELY = "No stranger finds this device, which does not look at the local network: `ainet down`, then `ainet up --lan`."


class Market:
    """Keeps the owner's terms, and shows offers.

    Parameters
    ----------
    path
        The file of the terms.
    """

    def __init__(
        self,
        path: Path,
        *,
        selling: Selling,
        quotes: Quotes,
        accounts: Accounts,
        links: Links,
        answers: Answers,
        log: logging.Logger,
    ) -> None:
        self._path, self._selling, self._quotes, self._accounts = path, selling, quotes, accounts
        self._links, self._log = links, log
        #: Why nothing is sold although the owner wanted it.
        self._problem = ""
        answers.add(shown.sell, self.sell)
        answers.add(shown.stop_selling, self.stop_selling)
        answers.add(shown.selling, self.selling)
        answers.add(shown.offers, self.offers)

    async def open(self) -> None:
        """Sell on the terms that were kept."""
        terms = await asyncio.to_thread(read_terms, self._path)
        if terms is None:
            if await asyncio.to_thread(self._path.exists):
                self._problem = f"{self._path.name} cannot be read: nothing is sold. `ainet sell` writes it anew."
                self._log.warning("%s", self._problem)
            return
        try:
            await self._selling.open(terms)
            await self._links.admit_strangers(is_admitted=terms.strangers)
        except AinetError as exc:
            self._problem = f"Nothing is sold: {exc.message}"
            self._log.warning("%s", self._problem)
        await self._accounts.allow()

    async def sell(
        self,
        models: list[str],
        *,
        max_load: str = "50%",
        hours: str = "always",
        price: str = AUTO,
        allow: str = "30m",
        strangers: bool = False,
    ) -> shown.SellingState:
        """Sell on these terms from now on."""
        if len(models) > MOST_MODELS:
            raise UsageError(f"{len(models)} models are too many; {MOST_MODELS} can be sold.")
        terms = Terms(
            models=models,
            max_load=parse_share(max_load),
            hours=parse_hours(hours),
            price=parse_price(price),
            allow=round(parse_seconds(allow)),
            strangers=strangers,
        )
        await self._selling.open(terms)
        terms = msgspec.structs.replace(terms, pace=self._selling.pace)
        await asyncio.to_thread(write_terms, self._path, terms)
        await self._accounts.allow()
        await self._links.admit_strangers(is_admitted=strangers)
        return await self.selling()

    async def stop_selling(self) -> shown.SellingState:
        """Sell nothing more; what goes on ends by itself."""
        await self._selling.open(None)
        self._problem = ""
        await asyncio.to_thread(write_terms, self._path, None)
        await self._links.admit_strangers(is_admitted=False)
        await self._accounts.allow(to_contacts=False)  # those have what they have saved up when selling goes on
        return await self.selling()

    async def selling(self) -> shown.SellingState:
        """Return what is sold."""
        terms = self._selling.terms
        if terms is None:
            return shown.SellingState(is_on=False, sessions=self._selling.resources.sessions, problem=self._problem)
        models = [
            shown.SoldModel(
                name=one.name, price=one.price / UNIT_PRICE, reason=one.reason, tokens_per_s=one.tokens_per_s
            )
            for one in self._selling.offers(terms)
        ]
        hours = "always" if terms.hours is None else f"{terms.hours[0]}-{terms.hours[1]}"
        return shown.SellingState(
            is_on=True,
            models=models,
            max_load=terms.max_load,
            hours=hours,
            price=AUTO if terms.price is None else f"{terms.price / UNIT_PRICE:g}",
            allow_s=terms.allow,
            strangers_s=STRANGERS if terms.strangers else 0,
            sessions=self._selling.resources.sessions,
            waiting=self._selling.resources.queue,
            note=LONELY if terms.strangers and not self._links.discovery.active else "",
        )

    async def offers(self, seller: str = "anyone", why: bool = False, strangers: bool = False) -> shown.Offers:
        """Ask contacts, and strangers if they will do, what they sell now; the reasons always come along."""
        quoted, failed = await self._quotes.ask(await self._quotes.sellers(seller, strangers=strangers))
        found = [
            shown.OfferRow(
                seller=one.link.peer_name,
                model=offer.name,
                price=offer.price / UNIT_PRICE,
                reason=offer.reason,
                starts_in_s=offer.starts_in,
                tokens_per_s=offer.tokens_per_s,
                window=offer.window,
                trust=one.trust,
                trust_reason=one.trust_reason,
                left_s=seconds_of(one.prices.left, one.prices.pace),
                daily_s=seconds_of(one.prices.daily, one.prices.pace),
            )
            for one in quoted
            for offer in one.prices.offers
        ]
        others = [
            shown.NoOffer(one.link.peer_name, one.prices.why_not or "it sells nothing")
            for one in quoted
            if not one.prices.offers
        ]
        others += [shown.NoOffer(name, exc.message) for name, exc in failed.items()]
        return shown.Offers(sorted(found, key=lambda one: (one.price, one.seller, one.model)), others)
