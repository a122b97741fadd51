"""A session that is bought: what comes is counted, and signed for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from ainet.economy import receipt as receipts
from ainet.economy.pair_account import now
from ainet.economy.receipt import Finish, ReceiptBody, digest_of
from ainet.economy.requests import CheckAnswer, Ended, Getting, Judged, Pay, SaidTokens, Sold
from ainet.errors import AinetError, PeerUnreachable, ProtocolError, UsageError
from ainet.identity.keys import public_key_of

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Sequence

    from ainet.economy.ledger import Model
    from ainet.economy.order import Order
    from ainet.economy.pair_account import PairAccount
    from ainet.economy.purchase import Purchase, Sign
    from ainet.economy.receipt import Receipt
    from ainet.economy.requests import Buy
    from ainet.economy.voucher import Voucher
    from ainet.links.link import PeerLink

#: What a seller says, and at the end what its receipt says with the text that was held back.
BoughtEvent = Getting | Sold | SaidTokens | Judged | tuple[ReceiptBody, str]
#: How long the last voucher of a session may take (s); otherwise it is shown when the two meet again.
LAST = 5.0
#: Characters that a token has at most, on average, and those that may be more.
LONGEST_TOKEN, MORE_TEXT = 256, 1024
#: The slowest device reads a token of a question within this time (s).
SLOWEST = 0.1


class BoughtSession:
    """One order at one seller.

    Parameters
    ----------
    account
        With the seller.
    link
        To it, on which both have shown what they hold.
    request, order
        What is asked for, and what it costs.
    getting_ready
        Seconds after which a seller is left that only says that it gets ready; a long question gives it longer.
    n_tokens
        Tokens of the vocabulary.
    """

    def __init__(
        self,
        account: PairAccount,
        link: PeerLink,
        request: Buy | CheckAnswer,
        order: Order,
        *,
        model: Model,
        log: logging.Logger,
        getting_ready: float,
        n_tokens: int,
    ) -> None:
        self._account, self._link, self._order, self._model = account, link, order, model
        self._asked = request
        #: What the receipt is compared with.
        self._request = request.order if isinstance(request, CheckAnswer) else request
        self._log, self._n_tokens = log, n_tokens
        self._getting_ready = getting_ready + SLOWEST * order.prompt
        #: The tokens that came.
        self.tokens: list[int] = []
        #: Credits that were signed for it, once it is over.
        self.paid = 0
        self._characters, self._went_on = 0, time.monotonic()
        self._is_judged = False
        self._newest: Voucher | None = None
        self._sent: Voucher | None = None
        self._paying: asyncio.Task[None] | None = None
        self._receipt: tuple[Receipt, ReceiptBody] | None = None

    async def events(self) -> AsyncGenerator[BoughtEvent, None]:
        """Yield what the seller says, and at the end what its receipt says with the text that was held back.

        Raises
        ------
        ProtocolError
            The seller did something wrong: nothing was signed for that.
        PeerUnreachable
            The seller is silent, or the link was lost.
        AinetError
            The seller's words, or this device's when it cannot write down what it signs.
        """
        purchase = await self._begin()
        self._went_on = time.monotonic()
        try:
            async with contextlib.aclosing(self._link.stream(self._asked)) as items:
                while True:
                    try:
                        async with asyncio.timeout(self._account.patience):
                            item = await anext(items)
                    except TimeoutError:
                        raise PeerUnreachable(
                            f"{self._link.peer_name} said nothing for {self._account.patience:g} seconds: it is asked "
                            "no more."
                        ) from None
                    except StopAsyncIteration:
                        raise ProtocolError(f"{self._link.peer_name} ended the session without a receipt.") from None
                    if isinstance(item, Ended):
                        yield await self._done(purchase, item)
                        return
                    await self._take(purchase, item.event)
                    yield item.event
        except (GeneratorExit, asyncio.CancelledError):
            purchase.is_left = True
            raise
        except AinetError as exc:
            # Whoever says why it cannot, before it has accepted, has broken no promise; nor whoever is asked nonsense.
            is_fault = isinstance(exc, (ProtocolError, PeerUnreachable))
            is_nonsense = isinstance(exc, UsageError) and not purchase.received
            purchase.is_left = not (is_fault or purchase.is_sold) or is_nonsense
            raise
        finally:
            # Whoever asks may have left; what came is signed for nevertheless.
            await asyncio.shield(asyncio.ensure_future(self._end(purchase)))

    async def _begin(self) -> Purchase:
        """Note the order; also when whoever asks leaves meanwhile, its end."""
        noting = asyncio.ensure_future(self._account.buy(self._order, self._model))
        try:
            return await asyncio.shield(noting)
        except asyncio.CancelledError:
            purchase = await noting
            purchase.is_left = True
            await asyncio.shield(asyncio.ensure_future(self._end(purchase)))
            raise

    async def _take(self, purchase: Purchase, event: Getting | Sold | SaidTokens | Judged) -> None:
        buyer, session = self._account.buyer, self._order.session
        went_on, self._went_on = self._went_on, time.monotonic()
        signs: Sequence[Sign] = ()
        match event:
            case Getting():
                purchase.heard, self._went_on = now(), went_on
                if time.monotonic() - went_on > self._getting_ready:
                    raise PeerUnreachable(
                        f"{self._link.peer_name} has done nothing but get ready for {self._getting_ready:g} seconds."
                    )
            case Judged():
                purchase.heard = now()
                asked = self._asked
                if self._is_judged or not isinstance(asked, CheckAnswer):
                    raise ProtocolError(f"{self._link.peer_name} has judged what it was not asked to judge.")
                if len(event.margins) != len(asked.tokens) + asked.ended:
                    raise ProtocolError(f"{self._link.peer_name} has not judged the answer to its end.")
                self._is_judged = True
            case Sold():
                signs = buyer.sold(session, event.prompt, event.price, now())
            case SaidTokens():
                if isinstance(self._asked, CheckAnswer) and not self._is_judged:
                    raise ProtocolError(f"{self._link.peer_name} has judged nothing.")
                self._characters += len(event.text)
                if not event.tokens or self._characters > self._most_text(len(event.tokens)):
                    raise ProtocolError(f"{self._link.peer_name} sends text without the tokens that say it.")
                if max(event.tokens) >= self._n_tokens:
                    raise ProtocolError(f"{self._link.peer_name} sends tokens that its model does not have.")
                signs = buyer.said(session, event.index, len(event.tokens), now())
                if not purchase.wrong:
                    self.tokens += event.tokens
        self._check(purchase)
        await self._sign(signs)

    async def _done(self, purchase: Purchase, ended: Ended) -> tuple[ReceiptBody, str]:
        request, order, parties = self._request, self._order, self._account.parties
        body = receipts.read(ended.receipt, parties, public_key_of(self._link.peer_id))
        same = (order.session, request.model, order.rate.parameters, order.rate.price, request.sampling.seed)
        said = (body.session, body.model, body.parameters, body.price, body.seed)
        digests = digest_of([*request.prompt, *request.said]), digest_of(self.tokens)
        are_counted = (body.prompt, body.generated) == (order.prompt, purchase.received)
        if said != same or (are_counted and (body.prompt_digest, body.output_digest) != digests):
            raise ProtocolError(f"The receipt of {self._link.peer_name} is not that of this answer.")
        signs = self._account.buyer.done(order.session, body.prompt, body.generated)
        self._check(purchase)
        await self._sign(signs)
        if body.finish is not Finish.STOP and body.generated < order.most - (body.finish is Finish.CONTEXT):
            raise ProtocolError(
                f"{self._link.peer_name} has ended its answer after {body.generated:,} of {order.most:,} tokens, for "
                "no reason."
            )
        if len(ended.text) > self._most_text(0) - self._characters:
            raise ProtocolError(f"{self._link.peer_name} sends text without the tokens that say it.")
        self._receipt = ended.receipt, body
        return body, ended.text

    def _most_text(self, more: int) -> int:
        """Return how many characters may have come with the tokens that are here, and so many more."""
        return LONGEST_TOKEN * (len(self.tokens) + more) + MORE_TEXT

    def _check(self, purchase: Purchase) -> None:
        if purchase.wrong:
            raise ProtocolError(
                f"{self._link.peer_name} is not paid for this: {purchase.wrong}. The session has ended; what came "
                "before stays."
            )

    async def _sign(self, signs: Sequence[Sign]) -> None:
        voucher = await self._account.sign(signs, self.tokens)
        if voucher is not None:
            self._send(voucher)

    def _send(self, voucher: Voucher) -> None:
        self._newest = voucher
        if self._paying is None or self._paying.done():
            self._paying = asyncio.create_task(self._pay(), name="vouchers")

    async def _pay(self) -> None:
        while self._newest is not None and self._newest != self._sent:
            self._sent = self._newest
            try:
                await self._link.request(Pay(self._sent), timeout=self._account.patience)
            except AinetError as exc:
                self._log.info("A voucher did not reach %s: %s", self._link.peer_name, exc.message)
                failed, self._sent = self._sent, None
                if self._newest == failed:
                    return  # it is sent again with the next one, or at the end

    async def _end(self, purchase: Purchase) -> None:
        """Sign for what came, and write down the end; also when whoever asks has left."""
        try:
            await self._sign(self._account.buyer.end(self._order.session))
            if purchase.signed and self._account.signed is not None:  # whoever asked may have left while it was signed
                self._send(self._account.signed)
        finally:
            self.paid = purchase.signed
            await self._account.end_purchase(purchase, self._receipt)
            if self._paying is not None:
                await asyncio.wait([self._paying], timeout=LAST)
