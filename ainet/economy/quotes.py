"""Live prices of other devices, and what they are good for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from ainet.api import generate as shown
from ainet.economy.choice import MOST_ASKED, SellerQuote
from ainet.economy.contribution import ContributionScore
from ainet.economy.credits import UNIT_PRICE, Rate
from ainet.economy.requests import AskPrice, Prices
from ainet.economy.words import seconds_of
from ainet.errors import AinetError, NotFound, PeerUnreachable, Refused, UsageError
from ainet.links.standing import Standing, stranger_name
from ainet.wire.address import can_be_dialled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.economy.accounts import Accounts
    from ainet.economy.order import Order
    from ainet.economy.pair_account import PairAccount
    from ainet.economy.requests import Offer
    from ainet.economy.wants import Wants
    from ainet.links.link import PeerLink
    from ainet.links.links import Links
    from ainet.timing import Timing

ANYONE = "anyone"
#: How far a stranger is trusted, of what a contact would be: it can come back under another name.
STRANGER = 0.5


class Quoted(NamedTuple):
    """What a device says that it sells, over which link, and how far it is trusted (0 to 1)."""

    link: PeerLink
    account: PairAccount
    prices: Prices
    trust: float
    trust_reason: str

    def of(self, model: str | None, digest: bytes | None) -> Offer | None:
        """Return the offer of a model by its digest, if that is known, else by its name; any for None."""
        for offer in self.prices.offers:
            if digest is not None:
                if offer.model == digest:
                    return offer
            elif model is None or model.casefold() in (offer.name.casefold(), offer.model.hex()):
                return offer
        return None

    def quote(self, offer: Offer, budget: float) -> SellerQuote:
        """Return an offer in the form in which sellers are compared.

        Parameters
        ----------
        budget
            The most that an answer may cost, in seconds of the device that works. A device that does not say how fast
            it is can charge none.
        """
        left, trust = min(self.prices.left, round(budget * self.prices.pace)), self.trust
        rate = Rate(offer.parameters, offer.price)
        return SellerQuote(self.link.peer_id, rate, offer.starts_in, offer.tokens_per_s, left, trust)


def bought(quoted: Quoted, order: Order, paid: int, tokens: int) -> shown.Bought:
    """Return what people see of a session that was bought.

    Parameters
    ----------
    paid
        Credits that were signed for it.
    tokens
        Of the answer.
    """
    prices = quoted.prices
    return shown.Bought(
        seller=quoted.link.peer_name,
        session=order.session.hex(),
        tokens=tokens,
        credits=paid,
        price=order.rate.price / UNIT_PRICE,
        seconds=seconds_of(paid, prices.pace),
        left_s=seconds_of(max(prices.left - paid, 0), prices.pace),
        daily_s=seconds_of(prices.daily, prices.pace),
    )


class Quotes:
    """Asks devices of other owners for their prices, all at once.

    Strangers do not learn what the owner promises to contacts.

    Parameters
    ----------
    links
        To them.
    accounts
        With them.
    wants
        What the owner promises: it is told to whoever is asked.
    """

    def __init__(self, links: Links, accounts: Accounts, wants: Wants, timing: Timing) -> None:
        self._links, self._accounts, self._wants, self._timing = links, accounts, wants, timing

    def promises(self, model: str) -> bool:
        """Whether the owner promises a bonus for a model."""
        return any(one.model.casefold() == model.casefold() for one in self._wants.own())

    async def sellers(self, wanted: str, *, strangers: bool = False) -> list[str]:
        """Return the ids of whoever is called so, or of all for ``anyone``.

        Parameters
        ----------
        strangers
            Whether devices of which nothing is known will do: those on the local network, and one whose address
            ("host:port") is named.

        Raises
        ------
        AinetError
            Nobody is called so; or strangers cannot be looked for.
        """
        contacts = self._links.identity.contacts.all()
        is_address = strangers and ":" in wanted and can_be_dialled(wanted)
        nearby = self._strangers(wanted) if strangers and not is_address else []
        if wanted.casefold() == ANYONE:
            return [*(contact.id for contact in contacts), *nearby]
        found = [one.id for one in contacts if one.name.casefold() == wanted.casefold() or one.id == wanted]
        if not found and is_address:
            return [(await self._links.strangers.meet(wanted)).peer_id]
        found = found or [one for one in nearby if wanted in (one, one[:8], stranger_name(one))]
        if not found and strangers:
            there = ", ".join(map(stranger_name, nearby)) or "nobody"
            raise NotFound(f"No contact and no stranger here is called {wanted!r}. Strangers are: {there}.")
        if not found:
            if any(member.name == wanted for member in self._links.members()):
                raise NotFound(f"{wanted} is a device of yours: it answers without --from, for nothing.")
            names = ", ".join(one.name for one in contacts) or "nobody yet (`ainet introduce` makes contacts)"
            raise NotFound(f"No contact is called {wanted!r}. Contacts are: {names}.")
        return found[:1]

    def _strangers(self, wanted: str) -> list[str]:
        """Return who deals with strangers on the local network."""
        if not self._links.discovery.active:
            raise UsageError(
                "Strangers are found on the local network, which this node does not look at: `ainet down`, then "
                f"`ainet up --lan`. One whose address is known is asked with `--from HOST:PORT` in place of {wanted}."
            )
        return self._links.strangers_nearby()

    async def ask(self, sellers: Sequence[str], model: str | None = None) -> tuple[list[Quoted], dict[str, AinetError]]:
        """Ask these devices (node ids); returns who answered, and by name why others did not."""
        names = {contact.id: contact.name for contact in self._links.identity.contacts.all()}
        score = ContributionScore(await self._accounts.records(), {})
        asked = sellers[:MOST_ASKED]
        found = await asyncio.gather(*(self._ask(one, model, score) for one in asked), return_exceptions=True)
        quoted, failed = [], {}
        for seller, one in zip(asked, found, strict=True):
            if isinstance(one, Quoted):
                quoted.append(one)
            elif isinstance(one, AinetError):
                failed[names.get(seller, stranger_name(seller))] = one
            elif isinstance(one, BaseException):
                raise one
        return quoted, failed

    async def _ask(self, seller: str, model: str | None, score: ContributionScore) -> Quoted:
        try:
            async with asyncio.timeout(self._timing.price_asked):
                is_stranger = self._links.identity.contacts.get(seller) is None
                link = await self._links.connect(seller, Standing.STRANGER if is_stranger else Standing.CONTACT)
                if link.standing.permits(Standing.MEMBER):
                    raise Refused(f"{link.peer_name} is a device of yours: it answers without --from, for nothing.")
                account = await self._accounts.met(link)
                wants = [] if is_stranger else self._wants.own()
                # Where a model's file lies on this device is nobody's business.
                named = None if model is None or "/" in model or "\\" in model else model[:200]
                prices: Prices = await link.request(AskPrice(None, named, wants), timeout=None)
        except TimeoutError:
            raise PeerUnreachable(f"it said no price within {self._timing.price_asked:g} seconds") from None
        await account.note_pace(prices.pace)
        if is_stranger:
            score = ContributionScore({seller: await self._accounts.record_of(account)}, {})
            reason = f"a stranger counts half; {score.trust_reason(seller)}"
            return Quoted(link, account, prices, score.trust(seller) * STRANGER, reason)
        return Quoted(link, account, prices, score.trust(seller), score.trust_reason(seller))
