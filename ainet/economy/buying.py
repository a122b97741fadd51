"""Buying: an answer from the device of another owner, at a live price, within a budget."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ainet.api import generate as shown
from ainet.economy.bought_session import BoughtSession
from ainet.economy.choice import Choice, choices
from ainet.economy.credits import Rate
from ainet.economy.examiner import Asked, Part
from ainet.economy.ledger import Model
from ainet.economy.order import Order
from ainet.economy.quotes import ANYONE, bought
from ainet.economy.receipt import Finish
from ainet.economy.requests import Buy, Getting, SaidTokens, Sold
from ainet.economy.signed import SESSION_BYTES
from ainet.economy.words import beyond_allowance, seconds_of, span
from ainet.errors import AinetError, NotFound, PeerUnreachable, PromptTooLong, ProtocolError, Refused, UsageError

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator

    from ainet.economy.accounts import Accounts
    from ainet.economy.examiner import Examiner
    from ainet.economy.quotes import Quoted, Quotes
    from ainet.economy.requests import Offer
    from ainet.economy.tokenizing import MadePrompt, Tokenizing
    from ainet.economy.works import KnownModel
    from ainet.stages.protocol.generation import Open
    from ainet.timing import Timing

#: Sellers that are tried one after the other for one answer.
MOST_TRIED = 4
#: The most that an answer costs where nothing is said, in seconds of the device that works.
USUAL_BUDGET = 1800.0
#: Parameters (in millions) that a device computes with in a second: as many as 20 TB/s can read, at four bits each.
FASTEST = 40_000_000
#: Credits for a million of them, where tokens are drawn.
PACE = Rate(1000).cost(0, 1) / 1000
#: How far a seller is trusted that the owner has named, whatever it did before.
LEAST_TRUST = 0.01


class Wanted(NamedTuple):
    """What is to be bought.

    Attributes
    ----------
    request
        The conversation, and how tokens are drawn.
    notes
        What the reader must know of how it was read.
    model, digest, known
        The model's name; its manifest's SHA-256, and what else this device knows of it.
    seller
        A contact's name, or ``anyone``.
    budget
        The most that the answer may cost, in seconds of the device that works.
    strangers
        Whether devices of which nothing is known may be asked, too.
    """

    request: Open
    notes: list[str]
    model: str | None
    digest: bytes | None
    known: KnownModel | None
    seller: str
    budget: float = USUAL_BUDGET
    strangers: bool = False

    @property
    def is_for_anyone(self) -> bool:
        """Whether its owner lets anyone read it."""
        return self.seller.casefold() == ANYONE


class _Found(NamedTuple):
    """A seller that would do: what it says, what it offers, the prompt in its model's tokens, and what it costs."""

    quoted: Quoted
    offer: Offer
    prompt: MadePrompt
    choice: Choice
    most: int


@dataclass
class _Answer:
    """An answer while it is bought, from one seller after the other."""

    begun: float = field(default_factory=time.monotonic)
    first: float = 0.0
    last: float = 0.0
    model: bytes | None = None
    vocabulary: str = ""
    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    @property
    def bought(self) -> list[shown.Bought]:
        """What was bought for it, checks included."""
        return [one for part in self.parts for one in (part.bought, part.check) if one is not None]

    @property
    def seconds(self) -> float:
        """What it has cost until now, in seconds of the devices that worked."""
        return sum(one.seconds for one in self.bought)


class Buying:
    """Buys answers.

    Parameters
    ----------
    quotes
        Asks for prices.
    tokenizing
        Makes prompts, and compares texts with their tokens.
    examiner
        Looks at answers.
    accounts
        With those who sell.
    """

    def __init__(
        self,
        quotes: Quotes,
        tokenizing: Tokenizing,
        examiner: Examiner,
        accounts: Accounts,
        *,
        log: logging.Logger,
        timing: Timing,
    ) -> None:
        self._quotes, self._tokenizing, self._examiner, self._log = quotes, tokenizing, examiner, log
        self._accounts, self._timing = accounts, timing

    async def answer(self, wanted: Wanted) -> AsyncGenerator[shown.Event, None]:
        """Buy an answer; yields its events. Closing the generator ends the session, and what came is paid.

        Raises
        ------
        AinetError
            Nobody answers, or not within the budget.
        """
        sellers, tried = await self._quotes.sellers(wanted.seller, strangers=wanted.strangers), 0
        got, left_out, again, is_nonsense = _Answer(), set[str](), set[str](), False
        while True:
            yield shown.Progress(text="asking for prices")
            try:
                found = await self._find(wanted, [one for one in sellers if one not in left_out], got)
            except AinetError:
                await self._examine(wanted, got)
                raise
            name, seller = found.quoted.link.peer_name, found.quoted.link.peer_id
            tried += 1
            if await self._accounts.is_new(found.quoted.account):
                words = f"{name} reads this conversation and its answer, and nothing else of yours"
                yield shown.Progress(text=words, notice=True)
                found.prompt.notes.append(words)
            try:
                async with contextlib.aclosing(self._buy(wanted, found, got)) as events:
                    async for event in events:
                        yield event
            except AinetError as exc:
                if 0 < wanted.request.max_tokens <= len(got.tokens):  # all is there but the receipt
                    break
                if isinstance(exc, Refused) and "price" in exc.details and seller not in again:
                    again.add(seller)  # the price has risen since it was asked
                    continue
                left_out.add(seller)
                was_nonsense, is_nonsense = is_nonsense, isinstance(exc, UsageError)
                if (was_nonsense and is_nonsense) or tried >= MOST_TRIED or len(left_out) >= len(sellers):
                    if got.tokens:
                        yield shown.Progress(text=f"{exc.message} What came is checked")
                        await self._examine(wanted, got)
                    raise
                self._log.warning("%s does not go on answering: %s", name, exc.message)
                goes_on = "The answer goes on elsewhere" if got.tokens else "Somebody else is asked"
                yield shown.Progress(text=f"{exc.message} {goes_on}", notice=True)
            else:
                break
        yield shown.Progress(text=f"checking what {name} has said")
        await self._examine(wanted, got)
        asked = _asked(wanted, got)
        text, more = await self._examiner.true_text(got.parts, "".join(got.text), asked)
        yield _done(wanted, found, got, text, [*got.notes, *more])

    async def _examine(self, wanted: Wanted, got: _Answer) -> None:
        for part in got.parts:
            await self._examiner.examine(part, _asked(wanted, got))

    async def _find(self, wanted: Wanted, sellers: list[str], got: _Answer) -> _Found:
        """Ask for prices, and return the best seller; raises `AinetError` with words for why none will do."""
        quoted, failed = await self._quotes.ask(sellers, wanted.model)
        budget = wanted.budget - got.seconds
        most = wanted.request.max_tokens - len(got.tokens)
        vocabulary = got.vocabulary or (wanted.known.vocabulary if wanted.known is not None else "")
        able: list[_Found] = []
        offered: list[tuple[Quoted, Offer]] = []
        refusals: list[str] = []
        too_long: PromptTooLong | None = None
        for one in quoted:
            offer = one.of(wanted.model, got.model or wanted.digest)
            if offer is None:
                sold = ", ".join(each.name for each in one.prices.offers)
                name = wanted.model or "that model"
                refusals.append(one.prices.why_not or f"{one.link.peer_name} does not sell {name}, but {sold}.")
            elif wanted.known is not None and offer.parameters != wanted.known.parameters:
                refusals.append(
                    f"{one.link.peer_name} counts {offer.parameters:,} million parameters of {offer.name}, which has "
                    f"{wanted.known.parameters:,}: its price is wrong."
                )
            elif vocabulary not in ("", offer.tokenizer.content):
                refusals.append(f"{one.link.peer_name} names another vocabulary of {offer.name}: it is not asked.")
            elif max(offer.parameters * offer.tokens_per_s, one.prices.pace / PACE) > FASTEST:
                refusals.append(f"{one.link.peer_name} says that it computes faster than any device: it is not asked.")
            elif not one.prices.pace:
                refusals.append(f"{one.link.peer_name} does not say how fast it is, and so not what an answer costs.")
            else:
                offered.append((one, offer))
        made = await self._prompts(wanted, offered)
        for (one, offer), prompt in zip(offered, made, strict=True):
            if isinstance(prompt, AinetError):
                if len(quoted) == 1:
                    raise prompt
                refusals.append(f"{one.link.peer_name}: {prompt.message}")
                continue
            n = len(prompt.tokens) + len(got.tokens)
            if n + 1 > offer.window:
                words = f"The prompt has {n} tokens; {one.link.peer_name} sells {offer.window} with the answer."
                too_long = PromptTooLong(words, prompt_tokens=n, context_window=offer.window)
                refusals.append(words)
                continue
            n_most = min(most, offer.window - n)
            quote = one.quote(offer, budget)
            if not wanted.is_for_anyone:  # the owner decides whom to ask
                quote = quote._replace(trust=max(quote.trust, LEAST_TRUST))
            found = choices([quote], n, n_most)
            if found:
                able.append(_Found(one, offer, prompt, found[0], n_most))
            elif not quote.trust:
                refusals.append(
                    f"{one.link.peer_name} has answered with another model than it named: only --from "
                    f"{one.link.peer_name} asks it."
                )
            else:
                order = Order(b"", Rate(offer.parameters, offer.price), n, n_most)
                refusals.append(_too_much(one, order, budget))
        if able:
            return min(able, key=lambda one: (-one.most, one.choice.burden, one.choice.quote.seller))
        why = [*refusals, *(f"{name}: {exc.message}" for name, exc in failed.items())]
        if not sellers or not why:
            nobody = "nobody is here who deals with strangers, and " if wanted.strangers else ""
            raise NotFound(
                f"Nobody can be asked: {nobody}there are no contacts. `ainet introduce` makes the first one."
            )
        if too_long is not None and len(why) == 1:
            raise too_long
        if not quoted and len(failed) == 1:
            raise next(iter(failed.values()))
        raise Refused(" ".join(why))

    async def _prompts(self, wanted: Wanted, offered: list[tuple[Quoted, Offer]]) -> list[MadePrompt | AinetError]:
        """Make the prompt for each seller; once one is made, those whose vocabulary comes slowly are not waited for."""
        opened = wanted.request
        tasks = [
            asyncio.ensure_future(
                self._tokenizing.prompt(
                    offer.tokenizer, opened.messages, opened.template, raw=opened.raw, source=quoted.link
                )
            )
            for quoted, offer in offered
        ]
        try:
            waited, is_made = set(tasks), False
            while waited:
                patience = self._timing.price_asked if is_made else None
                done, waited = await asyncio.wait(waited, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                is_made = is_made or any(task.exception() is None for task in done)
                if not done:
                    break
        finally:
            for task in tasks:
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
        made: list[MadePrompt | AinetError] = []
        for one in found:
            if isinstance(one, asyncio.CancelledError):
                made.append(PeerUnreachable("it sends its model's vocabulary slowly, and is not waited for."))
            elif isinstance(one, BaseException) and not isinstance(one, AinetError):
                raise one
            else:
                made.append(one)
        return made

    async def _buy(self, wanted: Wanted, found: _Found, got: _Answer) -> AsyncGenerator[shown.Event, None]:
        offer, link, opened = found.offer, found.quoted.link, wanted.request
        rate = Rate(offer.parameters, offer.price)
        order = Order(secrets.token_bytes(SESSION_BYTES), rate, len(found.prompt.tokens) + len(got.tokens), found.most)
        request = Buy(
            session=order.session,
            model=offer.model,
            prompt=found.prompt.tokens,
            said=list(got.tokens),
            sampling=opened.sampling,
            most=order.most,
            price=offer.price,
            stop=opened.stop,
        )
        model = Model(offer.model, offer.name, offer.parameters)
        session = BoughtSession(
            found.quoted.account,
            link,
            request,
            order,
            model=model,
            log=self._log,
            getting_ready=self._timing.getting_ready,
            n_tokens=found.prompt.n_tokens,
        )
        got.notes = [*wanted.notes, *found.prompt.notes]
        before, first, finish = len(got.tokens), 0.0, None
        try:
            async with contextlib.aclosing(session.events()) as events:
                async for event in events:
                    if isinstance(event, Getting):
                        yield shown.Progress(text=f"{link.peer_name}: {event.words}")
                    elif isinstance(event, Sold):
                        yield shown.Start(model=offer.name, placement=[], prompt_tokens=order.prompt, notes=got.notes)
                    elif isinstance(event, SaidTokens):
                        got.model, got.vocabulary = offer.model, offer.tokenizer.content
                        got.last = time.monotonic()
                        first = first or got.last
                        got.first = got.first or got.last
                        got.tokens += event.tokens
                        got.text.append(event.text)
                        yield shown.Text(text=event.text, tokens=event.tokens)
                    elif isinstance(event, tuple):
                        ended, held = event
                        finish = Finish(ended.finish)
                        got.text.append(held)
                        if held:
                            yield shown.Text(text=held, tokens=[])
        finally:
            said, tokens = got.tokens[:before], got.tokens[before:]
            if session.paid or tokens or finish is not None:
                speed = (len(tokens) - 1) / (got.last - first) if tokens and got.last > first else 0.0
                what = bought(found.quoted, order, session.paid, len(tokens))
                got.parts.append(Part(found.quoted, offer, request.prompt, said, tokens, finish, speed, what))
            self._accounts.replicate(found.quoted.account)
        if finish is None:
            raise ProtocolError(f"{link.peer_name} ended the session without a receipt.")


def _asked(wanted: Wanted, got: _Answer) -> Asked:
    budget = wanted.budget - got.seconds
    return Asked(wanted.request.sampling, wanted.request.stop, wanted.is_for_anyone, budget)


def _done(wanted: Wanted, found: _Found, got: _Answer, text: str, notes: list[str]) -> shown.Done:
    seconds, n, last = got.last - got.first, len(got.tokens), got.parts[-1].finish
    is_short = 0 < n < wanted.request.max_tokens  # then it was the seller's window that ended it
    finish = (Finish.CONTEXT if is_short else Finish.LENGTH) if last is not Finish.STOP else last
    return shown.Done(
        finish=finish.name.lower(),
        text=text,
        tokens=got.tokens,
        model=found.offer.name,
        seed=wanted.request.sampling.seed,
        placement=[],
        received={},
        bought=got.bought,
        notes=notes,
        timings=shown.Timings(
            prompt_tokens=len(found.prompt.tokens),
            generated_tokens=n,
            first_token_s=round((got.first or time.monotonic()) - got.begun, 4),
            tokens_per_s=round((n - 1) / seconds, 2) if seconds > 0 else 0.0,
        ),
    )


def _too_much(one: Quoted, order: Order, budget: float) -> str:
    """Return why an answer of a seller is too expensive, and what would fit."""
    prices, name = one.prices, one.link.peer_name
    if order.whole <= prices.left:
        cost = seconds_of(order.whole, prices.pace)
        fits = order.rate.tokens_for(round(budget * prices.pace), order.prompt)
        would = f"`--max-tokens {fits}` fits." if fits > 0 else "Not even the question fits."
        return f"This answer may take {span(cost)} of {name}, and the budget is {span(budget)}. {would}"
    return beyond_allowance(name, order, prices.left, prices.daily, prices.pace)
