"""A session that is sold: the answer goes on as far as it is paid for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from ainet.economy import receipt as receipts
from ainet.economy.checks import check_of
from ainet.economy.ledger import Model
from ainet.economy.pair_account import now
from ainet.economy.receipt import Finish, ReceiptBody, digest_of
from ainet.economy.requests import Ended, Getting, Judged, SaidTokens, SaleEvent, Sold
from ainet.economy.sale import Stage
from ainet.errors import Refused
from ainet.stages.protocol.generation import Done, Open, Resume, Text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ainet.economy.order import Order
    from ainet.economy.pair_account import PairAccount
    from ainet.economy.requests import Buy, CheckAnswer
    from ainet.economy.sale import Sale
    from ainet.economy.works import Ready, SoldModel, Works
    from ainet.identity.identity import Identity
    from ainet.stages.protocol.flow import Flow
    from ainet.stages.protocol.generation import Event
    from ainet.timing import Timing

#: How often a session that waits looks whether it has waited for too long (s).
LOOK = 0.5


class SoldSession:
    """Answers one order.

    Parameters
    ----------
    account
        With whom it is.
    request, order
        What was asked for, and what it was found to be.
    judged
        The answer that is to be judged, where that is what was asked for.
    flow
        How far the answer may go.
    name
        What this device is called by the buyer.
    """

    def __init__(
        self,
        account: PairAccount,
        request: Buy,
        order: Order,
        model: SoldModel,
        *,
        judged: CheckAnswer | None = None,
        works: Works,
        flow: Flow,
        identity: Identity,
        name: str,
        timing: Timing,
    ) -> None:
        self._account, self._request, self._order, self._model = account, request, order, model
        self._works, self._flow, self._identity, self._timing = works, flow, identity, timing
        self._name = name
        self._session, self._judged = order.session, judged
        self._said: list[int] = []
        self._ended: Sale | None = None
        self._finish, self._held = Finish.CANCELLED, ""

    async def events(self) -> AsyncGenerator[SaleEvent | Ended, None]:
        """Load the model, sell, and answer.

        Raises
        ------
        Refused
            It is not paid, or cannot be sold any more.
        AinetError
            Whatever prevents an answer.
        """
        async with contextlib.aclosing(self._works.ready(self._model, self._account.peer)) as getting:
            async for item in getting:
                if isinstance(item, str):
                    yield SaleEvent(Getting(item[:300]))
                    continue
                async with contextlib.aclosing(self._sell(item)) as events:
                    async for event in events:
                        yield event

    async def settle(self) -> None:
        """Take what is acknowledged late, and write off the rest. Called once the session has ended in any way."""
        sale = await self._account.end_sale(self._session, None) or self._ended
        if sale is None:
            return
        until = time.monotonic() + self._timing.voucher_late
        while not sale.is_settled and time.monotonic() < until:
            await self._account.changed(LOOK)
        await self._account.write_off(sale)

    async def _sell(self, ready: Ready) -> AsyncGenerator[SaleEvent | Ended, None]:
        order, model = self._order, self._model
        window = round(1 / model.seconds) if model.seconds > 0 else 0
        try:
            await self._account.sell(order, Model(model.digest, model.name, model.parameters), window=window)
        except ValueError as exc:
            raise Refused(f"{self._name} cannot sell that any more: {exc}.") from exc
        is_told = False
        while (sale := self._sale).stage < Stage.READING:
            if sale.stage is Stage.SOLD and not is_told:
                is_told = True
                yield SaleEvent(Sold(order.prompt, order.rate.price))
            else:
                await self._account.changed(LOOK)
        answered = self._judge(ready) if self._judged is not None else self._answer(ready)
        async with contextlib.aclosing(answered) as events:
            async for event in events:
                yield event
        yield await self._receipt()

    async def _answer(self, ready: Ready) -> AsyncGenerator[SaleEvent, None]:
        request = self._request
        opened = Open(
            session=0,
            messages=[],
            raw=False,
            sampling=request.sampling,
            max_tokens=self._order.most + len(request.said),
            stop=request.stop,
            resume=Resume(request.prompt, request.said, []),
            user=self._account.peer,
        )
        heard = time.monotonic()
        async with contextlib.aclosing(self._paid(ready.answer(opened, self._flow))) as events:
            async for event in events:
                if isinstance(event, Text) and event.tokens:
                    await self._charge(len(event.tokens))
                    yield SaleEvent(SaidTokens(len(self._said), event.tokens, event.text))
                    self._said += event.tokens
                    heard = time.monotonic()
                elif isinstance(event, Done):
                    self._finish, self._held = Finish[event.finish.upper()], event.text
                elif event is None and time.monotonic() - heard > self._account.patience / 4:
                    heard = time.monotonic()
                    yield SaleEvent(Getting(self._why_silent))

    async def _judge(self, ready: Ready) -> AsyncGenerator[SaleEvent, None]:
        """Judge an answer; all that is read was accepted as a prompt, and one token is what comes of it."""
        judged = self._judged
        assert judged is not None  # noqa: S101 - this is called for no other
        opened = check_of(judged.prompt, judged.said, judged.tokens, judged.sampling, ended=judged.ended)
        margins: list[float] = []
        heard = time.monotonic()
        async with contextlib.aclosing(self._paid(ready.answer(opened, self._flow), whole=opened.max_tokens)) as events:
            async for event in events:
                if isinstance(event, Text):
                    margins += event.margins
                elif time.monotonic() - heard > self._account.patience / 4:
                    heard = time.monotonic()
                    yield SaleEvent(Getting(self._why_silent))
        yield SaleEvent(Judged(margins))
        await self._charge(1)
        self._said, self._finish = [0], Finish.LENGTH
        yield SaleEvent(SaidTokens(0, self._said, ""))

    async def _receipt(self) -> Ended:
        request, order = self._request, self._order
        parties = self._account.parties
        body = ReceiptBody(
            parties.payer,
            parties.payee,
            self._session,
            self._model.digest,
            self._model.parameters,
            order.rate.price,
            request.sampling.seed,
            order.prompt,
            len(self._said),
            digest_of([*request.prompt, *request.said]),
            digest_of(self._said),
            self._finish,
            int(time.time()),
        )
        signed = receipts.sign(body, parties.reversed, self._identity.sign)
        self._ended = await self._account.end_sale(self._session, (signed, body))
        return Ended(signed, self._held)

    @property
    def _why_silent(self) -> str:
        if self._flow.is_paused:
            return "others come first"
        return "waiting" if self._said else "reading the question"

    async def _paid(
        self, answer: AsyncGenerator[Event, None], *, whole: int | None = None
    ) -> AsyncGenerator[Event | None, None]:
        """Yield the events of an answer while it is paid for, and None now and then.

        Parameters
        ----------
        whole
            Tokens that may be said at once; None: as far as there is room for them.
        """
        step: asyncio.Future[Event] | None = None
        try:
            self._allow(whole)
            while True:
                step = step or asyncio.ensure_future(anext(answer))
                paid = asyncio.create_task(self._account.changed(LOOK))
                waited: set[asyncio.Future[Any]] = {step, paid}
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                paid.cancel()
                self._allow(whole)
                if step.done():
                    done, step = step, None
                    try:
                        event = done.result()
                    except StopAsyncIteration:
                        return
                    yield event
                else:
                    yield None
        finally:
            if step is not None:
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)
            await answer.aclose()

    async def _charge(self, n: int) -> None:
        """Charge tokens as soon as there is room for them: others may have used it meanwhile."""
        while n:
            charged = await self._account.charge(self._sale.order.session, n)
            n -= charged
            if not charged:
                await self._account.changed(LOOK)
        self._allow()

    def _allow(self, whole: int | None = None) -> None:
        sale = self._sale
        room = self._account.seller.room(self._session)
        self._flow.allow(len(self._request.said) + sale.generated + room if whole is None else whole)

    @property
    def _sale(self) -> Sale:
        """The session as the account has it; raises `Refused` when it is over."""
        sale = self._account.sale(self._session)
        if sale is None:
            raise Refused("The session has ended: the link was lost.")
        if any(did.session == self._session for did in self._account.seller.tick(now())):
            raise Refused(
                f"Nothing was acknowledged for {self._account.patience:g} seconds: {self._name} has ended the "
                "session. What came stays."
            )
        return sale
