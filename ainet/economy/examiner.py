"""What is found out about an answer that was bought: of which model it is, and whether its text is its tokens'."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from ainet.api import generate as shown
from ainet.economy.bought_session import BoughtSession
from ainet.economy.checking import Sample
from ainet.economy.checks import PADDED, Verdict, usual_limit
from ainet.economy.choice import choices
from ainet.economy.credits import Rate
from ainet.economy.ledger import Model
from ainet.economy.order import Order
from ainet.economy.quotes import ANYONE, Quoted, bought
from ainet.economy.receipt import Finish
from ainet.economy.requests import CheckAnswer, Judged, Offer
from ainet.economy.signed import SESSION_BYTES
from ainet.errors import AinetError, NotFound
from ainet.signals import Signal

if TYPE_CHECKING:
    import logging

    from ainet.economy.accounts import Accounts
    from ainet.economy.checking import Checking
    from ainet.economy.quotes import Quotes
    from ainet.economy.tokenizing import Tokenizing
    from ainet.stages.protocol.sampling_params import SamplingParams
    from ainet.timing import Timing

#: Answers of this number of tokens are looked at for padding.
LONG = 20


@dataclass
class Part:
    """What one seller has said of an answer.

    Attributes
    ----------
    quoted, offer
        The seller, and what it sold.
    prompt, said
        Tokens of the prompt, and of what others have answered before.
    tokens
        Of this part.
    finish
        How it ended; None: the seller did not bring it to an end.
    speed
        Tokens a second; 0 where they came at once.
    bought
        What people see of it.
    """

    quoted: Quoted
    offer: Offer
    prompt: Sequence[int]
    said: Sequence[int]
    tokens: Sequence[int]
    finish: Finish | None
    speed: float
    bought: shown.Bought
    #: What was bought to check it.
    check: shown.Bought | None = None
    is_examined: bool = False


class Asked(NamedTuple):
    """How an answer was asked for.

    Attributes
    ----------
    sampling, stop
        How its tokens are drawn, and texts that end it.
    anyone
        Whether anyone may read it.
    budget
        What it may still cost, in seconds of the device that works.
    """

    sampling: SamplingParams
    stop: Sequence[str]
    anyone: bool
    budget: float


class _Found(NamedTuple):
    """What a check has found, and what the model is called by somebody else than its seller; empty: by nobody."""

    verdict: Verdict
    name: str


class Examiner:
    """Looks at answers, and notes what was wrong.

    Parameters
    ----------
    quotes
        Asks others for the price of a check.
    tokenizing
        Compares texts with their tokens.
    checking
        Judges tokens.
    accounts
        Keep what was found.
    """

    def __init__(
        self,
        quotes: Quotes,
        tokenizing: Tokenizing,
        checking: Checking,
        accounts: Accounts,
        *,
        log: logging.Logger,
        timing: Timing,
    ) -> None:
        self._quotes, self._tokenizing, self._checking, self._accounts = quotes, tokenizing, checking, accounts
        self._log, self._timing = log, timing
        #: Tells the seller (node id), model and speed (tokens/s) of each answer that was checked, and right.
        self.answered: Signal[[str, str, float]] = Signal("a right answer was bought", log)

    async def examine(self, part: Part, asked: Asked) -> None:
        """Look at a part of an answer, once and if that is due; what cannot be looked at is not."""
        if part.is_examined:
            return
        part.is_examined = True
        account, name = part.quoted.account, part.quoted.link.peer_name
        try:
            is_ended = part.finish is Finish.STOP and not await self._stopped(part, asked)
            if not (part.tokens or is_ended):
                return
            if not await self._checking.is_due(account, is_promised=self._quotes.promises(part.offer.name)):
                return
            sample = Sample(part.offer.model, part.prompt, part.said, part.tokens, asked.sampling, is_ended)
            known = await self._checking.known(part.offer.model, part.offer.name)
            if known is not None and known.vocabulary != part.offer.tokenizer.content:
                limit = usual_limit(len(part.tokens))
                found = _Found(Verdict(limit, limit, f"its vocabulary is not that of {known.name}"), known.name)
            elif known is not None:
                found = _Found(await self._checking.check(sample), known.name)
                if known.parameters != part.offer.parameters:
                    words = f"it counts {part.offer.parameters:,} million parameters where {known.name} has "
                    found = found._replace(verdict=found.verdict._replace(words=f"{words}{known.parameters:,}"))
            elif asked.anyone:  # its owner lets anyone read the question
                found = await self._bought_check(sample, part, asked.budget)
            else:
                return
            verdict = await self._looked_at(part, asked, found.verdict)
            await self._accounts.note_check(bytes.fromhex(part.bought.session), verdict)
        except AinetError as exc:
            self._log.info("The answer of %s is not checked: %s", name, exc.message)
            return
        is_so_called = found.name.casefold() == part.offer.name.casefold()
        if verdict.passed and part.finish is not None and part.speed and is_so_called and not account.is_stranger:
            self.answered.emit(part.quoted.link.peer_id, found.name, part.speed)
        wrong = ""
        if not verdict.passed:
            what = verdict.words or f"this is not what {part.offer.name} would have said"
            wrong = f"{what}: {name} is trusted less"
        part.bought = replace(part.bought, checked=verdict.mean, check_limit=verdict.limit, wrong=wrong)

    async def true_text(self, parts: Sequence[Part], said: str, asked: Asked) -> tuple[str, list[str]]:
        """Return the text of the tokens that were paid for, and what the reader must know of it.

        Parameters
        ----------
        said
            The text that came with them.
        """
        last = parts[-1]
        try:
            text = await self._tokenizing.text(last.offer.tokenizer, [*last.said, *last.tokens], asked.stop)
        except AinetError as exc:  # the answer is there, and paid
            return said, [f"what {last.quoted.link.peer_name} has said could not be looked at: {exc.message}"]
        is_whole = last.finish is not None or not text.startswith(said)
        if text == said or not is_whole:  # where the link was lost, what was held back did not come
            return text, []
        names = " or ".join(dict.fromkeys(part.quoted.link.peer_name for part in parts))
        words = "sent a text that is not that of its tokens"
        if len(parts) == 1:
            limit = usual_limit(len(last.tokens))
            with contextlib.suppress(AinetError):
                await self._accounts.note_check(bytes.fromhex(last.bought.session), Verdict(limit, limit, words))
            last.bought = replace(last.bought, wrong=last.bought.wrong or f"it {words}: {names} is trusted less")
        return text, [f"{names} {words}; this is what they say"]

    async def _stopped(self, part: Part, asked: Asked) -> bool:
        """Tell whether a text ended the answer that was to end it: then the model need not have ended it itself."""
        return await self._says(part, [*part.said, *part.tokens], asked.stop)

    async def _says(self, part: Part, tokens: Sequence[int], texts: Sequence[str]) -> bool:
        """Tell whether one of some texts is in what tokens say."""
        whole = await self._tokenizing.text(part.offer.tokenizer, tokens, []) if any(texts) else ""
        return any(one in whole for one in texts if one)

    async def _looked_at(self, part: Part, asked: Asked, verdict: Verdict) -> Verdict:
        """Return a verdict, with what else is wrong with an answer whose tokens are those of the model."""
        n, sampling = len(part.tokens), asked.sampling
        if verdict.passed and n and await self._says(part, [*part.said, *part.tokens[:-1]], asked.stop):
            return verdict._replace(words="it goes on after a text that was to end it")
        is_forced = sampling.grammar or sampling.json_schema or sampling.shifts_logits
        if not verdict.passed or n < LONG or part.said or is_forced:
            return verdict
        # Of all tokens, a stop text among them; what is forced is split as no tokenizer would.
        whole = await self._tokenizing.text(part.offer.tokenizer, part.tokens, [])
        ratio = n / max(await self._tokenizing.count(part.offer.tokenizer, whole), 1)
        if ratio > PADDED:
            return verdict._replace(words=f"it is padded: {ratio:.1f} tokens where one would do")
        return verdict

    async def _bought_check(self, sample: Sample, part: Part, budget: float) -> _Found:
        """Buy the check of an answer from a contact of another owner than who gave it.

        A stranger may be the same one again, and so may another device of the same owner.
        """
        swarm = part.quoted.account.parties.payee_swarm
        quoted, _ = await self._quotes.ask(await self._quotes.sellers(ANYONE))
        n = len(sample.prompt) + len(sample.said) + len(sample.tokens)
        able = [
            (choice.burden, i, one, offer)
            for i, one in enumerate(quoted)
            if one.account.parties.payee_swarm != swarm and (offer := one.of(None, sample.model)) is not None
            if offer.tokenizer.content == part.offer.tokenizer.content
            for choice in choices([one.quote(offer, budget)], n, 1)
        ]
        if not able:
            raise NotFound("nobody else sells the model within the budget")
        _, _, one, offer = min(able, key=lambda each: each[:2])
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
        order = Order(request.session, Rate(offer.parameters, offer.price), n, 1)
        session = BoughtSession(
            one.account,
            one.link,
            request,
            order,
            model=Model(offer.model, offer.name, offer.parameters),
            log=self._log,
            getting_ready=self._timing.check_bought,
            n_tokens=1,
        )
        margins: list[float] = []
        try:
            async with contextlib.aclosing(session.events()) as events:
                async for event in events:
                    margins += event.margins if isinstance(event, Judged) else []
        finally:
            if session.paid:
                part.check = replace(bought(one, order, session.paid, 0), is_check=True)
            self._accounts.replicate(one.account)
        return _Found(await self._checking.judge(sample, margins), offer.name)
