"""Buying: an answer from the device of another owner, at a live price, within a budget."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

from ainet.api import generate as shown
from ainet.economy.bought_session import BoughtSession
from ainet.economy.checking import Sample
from ainet.economy.checks import PADDED
from ainet.economy.choice import Choice, choices
from ainet.economy.credits import Rate
from ainet.economy.ledger import Model
from ainet.economy.order import Order
from ainet.economy.quotes import ANYONE
from ainet.economy.receipt import Finish
from ainet.economy.requests import Buy, CheckAnswer, Getting, Judged, SaidTokens, Sold
from ainet.economy.signed import SESSION_BYTES
from ainet.economy.words import beyond_allowance, seconds_of, span
from ainet.errors import AinetError, NotFound, PromptTooLong, ProtocolError, Refused, UsageError
from ainet.signals import Signal

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator

    from ainet.economy.accounts import Accounts
    from ainet.economy.checking import Checking
    from ainet.economy.checks import Verdict
    from ainet.economy.quotes import Quoted, Quotes
    from ainet.economy.receipt import ReceiptBody
    from ainet.economy.requests import Offer
    from ainet.economy.tokenizing import Tokenizing
    from ainet.stages.protocol.generation import Open

#: Sellers that are tried one after the other for one answer.
MOST_TRIED = 4
#: Answers of this number of tokens are looked at for padding.
LONG = 20
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
    model, digest
        The model's name; its manifest's SHA-256, where this device knows that.
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
    seller: str
    budget: float | None
    strangers: bool = False


class _Found(NamedTuple):
    """A seller that would do: what it says, what it offers, the prompt in its model's tokens, and what it costs."""

    quoted: Quoted
    offer: Offer
    prompt: list[int]
    notes: list[str]
    choice: Choice
    most: int


class _Answer:
    """An answer while it is bought, from one seller after the other."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.first = self.last = 0.0
        self.model: bytes | None = None
        self.text: list[str] = []
        self.tokens: list[int] = []
        self.bought: list[shown.Bought] = []


class Buying:
    """Buys answers.

    Parameters
    ----------
    quotes
        Asks for prices.
    tokenizing
        Makes prompts, and compares texts with their tokens.
    checking
        Judges answers.
    accounts
        Keep what was found.
    """

    def __init__(
        self, quotes: Quotes, tokenizing: Tokenizing, checking: Checking, accounts: Accounts, log: logging.Logger
    ) -> None:
        self._quotes, self._tokenizing, self._checking, self._log = quotes, tokenizing, checking, log
        self._accounts = accounts
        #: Tells the seller (node id), model and speed (tokens/s) of each answer that was checked, and right.
        self.answered: Signal[[str, str, float]] = Signal("a right answer was bought", log)

    async def answer(self, wanted: Wanted) -> AsyncGenerator[shown.Event, None]:
        """Buy an answer; yields its events. Closing the generator ends the session, and what came is paid.

        Raises
        ------
        AinetError
            Nobody answers, or not within the budget.
        """
        sellers, tried = await self._quotes.sellers(wanted.seller, strangers=wanted.strangers), 0
        got, left_out, again = _Answer(), set[str](), set[str]()
        while True:
            yield shown.Progress(text="asking for prices")
            found = await self._find(wanted, [one for one in sellers if one not in left_out], got)
            name, seller = found.quoted.link.peer_name, found.quoted.link.peer_id
            tried += 1
            if await self._accounts.is_new(found.quoted.account):
                words = f"{name} reads this conversation and its answer, and nothing else of yours"
                yield shown.Progress(text=words, notice=True)
                found.notes.append(words)
            try:
                async with contextlib.aclosing(self._buy(wanted, found, got)) as events:
                    async for event in events:
                        yield event
            except UsageError:
                raise
            except AinetError as exc:
                if 0 < wanted.request.max_tokens <= len(got.tokens):  # all is there but the receipt
                    yield _done(wanted, found, got, "length", "".join(got.text))
                    return
                if isinstance(exc, Refused) and "price" in exc.details and seller not in again:
                    again.add(seller)  # the price has risen since it was asked
                    continue
                left_out.add(seller)
                if tried >= MOST_TRIED or len(left_out) >= len(sellers):
                    raise
                self._log.warning("%s does not go on answering: %s", name, exc.message)
                goes_on = "The answer goes on elsewhere" if got.tokens else "Somebody else is asked"
                yield shown.Progress(text=f"{exc.message} {goes_on}", notice=True)
            else:
                return

    async def _find(self, wanted: Wanted, sellers: list[str], got: _Answer) -> _Found:
        """Ask for prices, and return the best seller; raises `AinetError` with words for why none will do."""
        quoted, failed = await self._quotes.ask(sellers, wanted.model)
        spent = sum(one.seconds for one in got.bought)
        budget = None if wanted.budget is None else wanted.budget - spent
        most = wanted.request.max_tokens - len(got.tokens)
        able: list[_Found] = []
        refusals: list[str] = []
        too_long: PromptTooLong | None = None
        for one in quoted:
            offer = one.of(wanted.model, got.model or wanted.digest)
            if offer is None:
                sold = ", ".join(each.name for each in one.prices.offers)
                name = wanted.model or "that model"
                refusals.append(one.prices.why_not or f"{one.link.peer_name} does not sell {name}, but {sold}.")
                continue
            try:
                prompt, notes = await self._prompt(wanted, offer, one)
            except AinetError as exc:
                if len(quoted) == 1:
                    raise
                refusals.append(f"{one.link.peer_name}: {exc.message}")
                continue
            n = len(prompt) + len(got.tokens)
            if n + 1 > offer.window:
                words = f"The prompt has {n} tokens; {one.link.peer_name} sells {offer.window} with the answer."
                too_long = PromptTooLong(words, prompt_tokens=n, context_window=offer.window)
                refusals.append(words)
                continue
            n_most = min(most, offer.window - n)
            quote = one.quote(offer, budget)
            if wanted.seller.casefold() != ANYONE:  # the owner decides whom to ask
                quote = quote._replace(trust=max(quote.trust, LEAST_TRUST))
            found = choices([quote], n, n_most)
            if found:
                able.append(_Found(one, offer, prompt, notes, found[0], n_most))
            elif not quote.trust:
                refusals.append(
                    f"{one.link.peer_name} has answered with another model than it named: only --from "
                    f"{one.link.peer_name} asks it."
                )
            else:
                order = Order(b"", Rate(offer.parameters, offer.price), n, n_most)
                refusals.append(_too_much(one, order, budget))
        if able:
            return min(able, key=lambda one: (one.choice.burden, one.choice.quote.seller))
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

    async def _prompt(self, wanted: Wanted, offer: Offer, quoted: Quoted) -> tuple[list[int], list[str]]:
        opened = wanted.request
        return await self._tokenizing.prompt(
            offer.tokenizer, opened.messages, opened.template, raw=opened.raw, source=quoted.link
        )

    async def _buy(self, wanted: Wanted, found: _Found, got: _Answer) -> AsyncGenerator[shown.Event, None]:
        offer, link, opened = found.offer, found.quoted.link, wanted.request
        rate = Rate(offer.parameters, offer.price)
        order = Order(secrets.token_bytes(SESSION_BYTES), rate, len(found.prompt) + len(got.tokens), found.most)
        request = Buy(
            session=order.session,
            model=offer.model,
            prompt=found.prompt,
            said=list(got.tokens),
            sampling=opened.sampling,
            most=order.most,
            price=offer.price,
            stop=opened.stop,
        )
        model = Model(offer.model, offer.name, offer.parameters)
        session = BoughtSession(found.quoted.account, link, request, order, model=model, log=self._log)
        notes = [*wanted.notes, *found.notes]
        before, ended = len(got.tokens), None
        try:
            async with contextlib.aclosing(session.events()) as events:
                async for event in events:
                    if isinstance(event, Getting):
                        yield shown.Progress(text=f"{link.peer_name}: {event.words}")
                    elif isinstance(event, Sold):
                        got.model = offer.model
                        yield shown.Start(model=offer.name, placement=[], prompt_tokens=order.prompt, notes=notes)
                    elif isinstance(event, SaidTokens):
                        got.last = time.monotonic()
                        got.first = got.first or got.last
                        got.tokens += event.tokens
                        got.text.append(event.text)
                        yield shown.Text(text=event.text, tokens=event.tokens)
                    elif isinstance(event, tuple):
                        ended, held = event
                        got.text.append(held)
                        if held:
                            yield shown.Text(text=held, tokens=[])
        finally:
            bought = _bought(found, order, len(got.tokens) - before)
            got.bought.append(bought)
            self._accounts.replicate(found.quoted.account)
        if ended is None:
            raise ProtocolError(f"{link.peer_name} ended the session without a receipt.")
        yield shown.Progress(text=f"checking what {link.peer_name} has said")
        try:
            got.bought[-1] = await self._checked(wanted, found, got, bought, ended)
            text, more = await self._true_text(wanted, offer, got, link.peer_name)
        except AinetError as exc:  # the answer is there, and paid
            text, more = "".join(got.text), [f"what {link.peer_name} has said could not be looked at: {exc.message}"]
        done = _done(wanted, found, got, Finish(ended.finish).name.lower(), text)
        yield dataclasses.replace(done, notes=[*notes, *more])

    async def _checked(
        self, wanted: Wanted, found: _Found, got: _Answer, bought: shown.Bought, body: ReceiptBody
    ) -> shown.Bought:
        """Return what was bought with what a check says of it, where one is due and can be made."""
        account, name, n = found.quoted.account, found.quoted.link.peer_name, bought.tokens
        is_promised = self._quotes.promises(found.offer.name)
        if not n or not await self._checking.is_due(account, is_promised=is_promised):
            return bought
        said, tokens = got.tokens[: len(got.tokens) - n], got.tokens[len(got.tokens) - n :]
        ended = body.finish == Finish.STOP and not wanted.request.stop
        sample = Sample(found.offer.model, found.prompt, said, tokens, wanted.request.sampling, ended)
        try:
            if await self._checking.knows(found.offer.model, found.offer.name):
                verdict = await self._checking.check(sample)
            elif wanted.seller.casefold() == ANYONE:  # its owner lets anyone read the question
                verdict = await self._bought_check(sample, found.quoted.link.peer_id)
            else:
                return bought
        except AinetError as exc:
            self._log.info("The answer of %s is not checked: %s", name, exc.message)
            return bought
        sampling = wanted.request.sampling
        if not verdict.words and n >= LONG and not said and not (sampling.grammar or sampling.json_schema):
            # Of all tokens, a stop text among them; grammars force splits that no tokenizer would make.
            whole = await self._tokenizing.text(found.offer.tokenizer, tokens, [])
            ratio = n / max(await self._tokenizing.count(found.offer.tokenizer, whole), 1)
            if ratio > PADDED:
                verdict = verdict._replace(words=f"it is padded: {ratio:.1f} tokens where one would do")
        await self._accounts.note_check(bytes.fromhex(bought.session), verdict)
        if verdict.passed and got.last > got.first and not account.is_stranger:
            self.answered.emit(found.quoted.link.peer_id, found.offer.name, (n - 1) / (got.last - got.first))
        wrong = ""
        if not verdict.passed:
            what = verdict.words or f"this is not what {found.offer.name} would have said"
            wrong = f"{what}: {name} is trusted less"
        return dataclasses.replace(bought, checked=verdict.mean, check_limit=verdict.limit, wrong=wrong)

    async def _bought_check(self, sample: Sample, seller: str) -> Verdict:
        """Buy the check of an answer from another contact than who gave it: a stranger may be the same one again."""
        others = [one for one in await self._quotes.sellers(ANYONE) if one != seller]
        quoted, _ = await self._quotes.ask(others)
        n = len(sample.prompt) + len(sample.said) + len(sample.tokens)
        offers = [(one, offer) for one in quoted if (offer := one.of(None, sample.model)) is not None]
        able = [
            (choice.burden, i)
            for i, (one, offer) in enumerate(offers)
            for choice in choices([one.quote(offer, None)], n, 1)
        ]
        if not able:
            raise NotFound("nobody else sells the model")
        one, offer = offers[min(able)[1]]
        rate = Rate(offer.parameters, offer.price)
        request = CheckAnswer(
            session=secrets.token_bytes(SESSION_BYTES),
            model=sample.model,
            prompt=list(sample.prompt),
            said=list(sample.said),
            tokens=list(sample.tokens),
            ended=sample.ended,
            sampling=sample.sampling,
            price=offer.price,
        )
        order = Order(request.session, rate, n, 1)
        model = Model(offer.model, offer.name, offer.parameters)
        session = BoughtSession(one.account, one.link, request, order, model=model, log=self._log)
        margins: list[float] = []
        async with contextlib.aclosing(session.events()) as events:
            async for event in events:
                margins += event.margins if isinstance(event, Judged) else []
        self._accounts.replicate(one.account)
        return await self._checking.judge(sample, margins)

    async def _true_text(self, wanted: Wanted, offer: Offer, got: _Answer, name: str) -> tuple[str, list[str]]:
        """Return the text of the tokens that were paid for, and what the reader must know of it."""
        said = "".join(got.text)
        text = await self._tokenizing.text(offer.tokenizer, got.tokens, wanted.request.stop)
        if text == said:
            return said, []
        return text, [f"{name} sent a text that is not that of its tokens; this is what they say"]


def _done(wanted: Wanted, found: _Found, got: _Answer, finish: str, text: str) -> shown.Done:
    seconds, n = got.last - got.first, len(got.tokens)
    return shown.Done(
        finish=finish,
        text=text,
        tokens=got.tokens,
        model=found.offer.name,
        seed=wanted.request.sampling.seed,
        placement=[],
        received={},
        bought=got.bought,
        timings=shown.Timings(
            prompt_tokens=len(found.prompt),
            generated_tokens=n,
            first_token_s=round((got.first or time.monotonic()) - got.begun, 4),
            tokens_per_s=round((n - 1) / seconds, 2) if seconds > 0 else 0.0,
        ),
    )


def _bought(found: _Found, order: Order, tokens: int) -> shown.Bought:
    prices = found.quoted.prices
    cost = order.so_far(tokens)
    return shown.Bought(
        seller=found.quoted.link.peer_name,
        session=order.session.hex(),
        tokens=tokens,
        credits=cost,
        price=order.rate.price / 1000,
        seconds=seconds_of(cost, prices.pace),
        left_s=seconds_of(max(prices.left - cost, 0), prices.pace),
        daily_s=seconds_of(prices.daily, prices.pace),
    )


def _too_much(one: Quoted, order: Order, budget: float | None) -> str:
    """Return why an answer of a seller is too expensive, and what would fit."""
    prices, name = one.prices, one.link.peer_name
    if budget is not None and order.whole <= prices.left:
        cost = seconds_of(order.whole, prices.pace)
        fits = order.rate.tokens_for(round(budget * prices.pace), order.prompt)
        would = f"`--max-tokens {fits}` fits." if fits > 0 else "Not even the question fits."
        return f"This answer may take {span(cost)} of {name}, and the budget is {span(budget)}. {would}"
    return beyond_allowance(name, order, prices.left, prices.daily, prices.pace)
