"""The account with another device while this node runs: what it buys and sells here, written down before it counts."""

from __future__ import annotations

import asyncio
import functools
import time
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ainet.economy import voucher as vouchers
from ainet.economy.balance import Balance
from ainet.economy.receipt import digest_of
from ainet.economy.session import Buyer, Seller
from ainet.errors import PeerUnreachable, ProtocolError
from ainet.identity.keys import public_key_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import ParamSpec, TypeVar

    from ainet.economy.balance import Allowance
    from ainet.economy.ledger import Account, DistributedLedger, Model
    from ainet.economy.order import Order
    from ainet.economy.purchase import Purchase, Sign
    from ainet.economy.receipt import Receipt, ReceiptBody
    from ainet.economy.sale import Do, Sale
    from ainet.economy.voucher import Voucher
    from ainet.links.link import PeerLink

    T = TypeVar("T")
    #: Does something with the ledger, in the thread that has it.
    Journal = Callable[[Callable[[], T]], Awaitable[T]]

    P = ParamSpec("P")

NO_DIGEST = bytes(32)
#: What is being written down: whoever asked for it may be gone.
_running: set[asyncio.Future[Any]] = set()


def to_its_end(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Have a method go on when whoever called it is cancelled: what is on the disk is then known here, too."""

    @functools.wraps(method)
    async def call(*args: P.args, **given: P.kwargs) -> T:
        work = asyncio.ensure_future(method(*args, **given))
        _running.add(work)
        work.add_done_callback(_ended)
        return await asyncio.shield(work)

    return call


def _ended(work: asyncio.Future[Any]) -> None:
    _running.discard(work)
    if not work.cancelled():
        work.exception()  # seen: whoever waits hears it, too


class PairAccount:
    """What this device and another one owe each other.

    Parameters
    ----------
    peer, name
        The other device.
    account
        What the ledger says.
    allowance
        What the other one may have beyond what it gave.
    ledger, journal
        Where everything is written, and what runs work on it.
    signer
        Signs with this device's key.
    patience
        Seconds of the other side's silence after which a session ends.
    is_stranger
        Whether nothing is known of the other device, which then is retired when its link is lost.
    changed
        Called after something was signed, acknowledged, given or lost.
    """

    def __init__(
        self,
        peer: str,
        name: str,
        account: Account,
        allowance: Allowance,
        *,
        ledger: DistributedLedger,
        journal: Journal,  # type: ignore[type-arg] # it is generic in each call
        signer: Callable[[bytes], bytes],
        patience: float,
        is_stranger: bool = False,
        changed: Callable[[], object] = lambda: None,
    ) -> None:
        self.peer, self.name, self.is_stranger = peer, name, is_stranger
        self._told = changed
        #: Whether the other device is gone; its account is opened anew when it comes again.
        self.is_retired = False
        #: The total, and the gifts in it, that a stranger says that it has signed before.
        self._shown = (0, 0)
        self.number, self.parties = account.id, account.parties
        self.signed, self.held = account.signed, account.held
        self.pace = account.pace
        self.seller = Seller(account.balance, allowance, patience=round(patience * 1000))
        self.patience = patience
        body = _body(account.signed)
        self.buyer = Buyer(body.total, body.gifts) if body is not None else Buyer()
        self._ledger, self._journal, self._signer = ledger, journal, signer
        self._key = public_key_of(peer)
        self._own_key = Ed25519PublicKey.from_public_bytes(account.parties.payer)
        self._lock = asyncio.Lock()
        self._met: weakref.WeakSet[PeerLink] = weakref.WeakSet()
        #: Sessions that began since this node did, also ended ones that may still be acknowledged.
        self._sales: dict[bytes, Sale] = {}
        #: Set, and replaced, whenever a voucher came or a session ended.
        self._changed = asyncio.Event()

    # Meeting.

    def has_met(self, link: PeerLink) -> bool:
        """Whether both sides have shown on this link what they hold."""
        return link in self._met

    @to_its_end
    async def take_shown(self, link: PeerLink | None, held: Voucher | None, signed: Voucher | None) -> None:
        """Take what the other side holds of this account, and what it has signed.

        Parameters
        ----------
        link
            On which it has shown that; None where somebody else has kept it.

        Raises
        ------
        ProtocolError
            One of the two was not signed by its payer.
        """
        async with self._lock:
            self._check_open()
            body = vouchers.read(held, self.parties, self._own_key) if held is not None else None
            if held is not None and body is not None and body.total > self.buyer.signed:
                # This device was restored from a backup: it has signed for more than it knows.
                await self._journal(lambda: self._ledger.note_voucher(self.number, held, body, {}, is_own=True))
                self.signed = held
                self.buyer.shown(body.total, body.gifts)
                self._note_signed()
        if signed is not None:
            await self.acknowledge(signed, is_paid=False)
        if link is not None:
            self._met.add(link)

    # Selling.

    @property
    def is_selling(self) -> bool:
        """Whether the other device has a session here, or one that it may still acknowledge."""
        return bool(self._sales)

    @to_its_end
    async def allow(self, allowance: Allowance) -> None:
        """Let the other device have this beyond what it gave; one that never had anything begins with a day's part."""
        async with self._lock:
            before, self.seller.allowance = self.seller.allowance, allowance
            if self.seller.balance.is_untouched and not self.seller.sales:
                balance = Balance.new(now(), allowance)
            else:
                balance = self.seller.balance.scaled(before, allowance)
            if balance != self.seller.balance:
                self.seller.balance = balance
                await self._journal(lambda: self._ledger.keep(self.number, balance))
        self._told()

    @to_its_end
    async def sell(self, order: Order, model: Model, *, window: int) -> list[Do]:
        """Accept an order; raises `ValueError` where `Seller.sell` does."""
        async with self._lock:
            self._check_open()
            if order.whole > self.seller.left(now()):
                raise ValueError("too expensive")
            at_risk = self.seller.at_risk_with(order, window)
            if order.session in self._sales:
                raise ValueError("the session exists")
            await self._journal(lambda: self._ledger.begin(self.number, order, model, is_own=False, at_risk=at_risk))
            did = self.seller.sell(order, now(), window=window)
            self._sales[order.session] = self.seller.sales[order.session]
            return did

    def sale(self, session: bytes) -> Sale | None:
        """Return a session that goes on."""
        return self.seller.sales.get(session)

    @to_its_end
    async def charge(self, session: bytes, most: int) -> int:
        """Charge tokens that are handed over, as many as there is room for; returns their number."""
        async with self._lock:
            n = min(most, self.seller.room(session))
            if n:
                self.seller.generated(session, n, now())
            return n

    @to_its_end
    async def acknowledge(self, voucher: Voucher, *, is_paid: bool = True) -> list[Do]:
        """Take a voucher of the other device.

        Parameters
        ----------
        is_paid
            Whether it comes as a payment; else it is what the device has signed before.

        Raises
        ------
        ProtocolError
            It cannot be read, was not signed by that device, or is a stranger's for more than it was sold.
        AinetError
            It cannot be written down, and does not count.
        """
        body = vouchers.read(voucher, self.parties.reversed, self._key)
        if body is None:
            return []
        async with self._lock:
            self._check_open()
            if body.total <= self.seller.balance.acknowledged:
                return []
            if self.is_stranger:
                if not is_paid:  # known, and written down when something is paid: each time could be a row that stays
                    self._shown = max(self._shown, (body.total, body.gifts))
                    return []
                self._check_stranger(body)
            before = {session: sale.acknowledged for session, sale in self._sales.items()}
            take_back = self.seller.remember()
            did = self.seller.acknowledge(body.total, body.gifts, body.session, now())
            parts = {
                session: sale.acknowledged - before[session]
                for session, sale in self._sales.items()
                if sale.acknowledged > before[session]
            }
            balance, at_risk = self.seller.balance, self.seller.at_risk
            try:
                await self._journal(
                    lambda: self._ledger.note_voucher(
                        self.number, voucher, body, parts, is_own=False, balance=balance, at_risk=at_risk
                    )
                )
            except BaseException:
                take_back()
                raise
            self.held = voucher
            self._shown = (0, 0)  # it is written down now, in one row
        self._wake()
        return did

    async def changed(self, seconds: float) -> None:
        """Wait for a voucher, or the end of a session, at most this long."""
        waits = self._changed
        try:
            async with asyncio.timeout(seconds):
                await waits.wait()
        except TimeoutError:
            pass

    @to_its_end
    async def end_sale(self, session: bytes, receipt: tuple[Receipt, ReceiptBody] | None) -> Sale | None:
        """End a session, if it still goes on; what was charged can still be acknowledged."""
        async with self._lock:
            if session not in self.seller.sales:
                return None
            sale = self.seller.end(session, now(), is_done=receipt is not None)
            try:
                await self._note_end(sale, receipt)
            finally:
                self.seller.go_on(now())  # the next one may have waited for what this one leaves unpaid
                self._wake()
        return sale

    @to_its_end
    async def write_off(self, sale: Sale) -> None:
        """Count what a session has not acknowledged as had: nobody will acknowledge it any more."""
        session = sale.order.session
        async with self._lock:
            try:
                if self.seller.write_off(sale, now()):
                    await self._note_end(sale, None)
            finally:
                self._sales.pop(session, None)
                self.seller.go_on(now())
                self._wake()

    @to_its_end
    async def cut(self) -> None:
        """End all sessions, as the link was lost."""
        async with self._lock:
            ended = self.seller.cut(now())
            for sale in {id(one): one for one in (*ended, *self._sales.values())}.values():
                await self._note_end(sale, None)
            self._sales.clear()
            self._met.clear()
        self._wake()

    @to_its_end
    async def retire(self) -> None:
        """End everything with a stranger that is gone; of one with which nothing ever happened, nothing is kept."""
        self.is_retired = True
        await self.cut()
        async with self._lock:
            await self._journal(lambda: self._ledger.drop_unused(self.number))

    def _check_stranger(self, body: vouchers.Body) -> None:
        """Raise `ProtocolError` where a stranger acknowledges more than it was sold, besides what it has shown."""
        seller = self.seller
        total, gifts = self._shown
        known = max(seller.balance.acknowledged, total)
        most = known + seller.unacknowledged + seller.balance.written_off
        if body.total > most or body.gifts > max(seller.balance.acknowledged_gifts, gifts):
            raise ProtocolError(f"{self.name} acknowledges what it has not received.")

    def _check_open(self) -> None:
        if self.is_retired:
            raise PeerUnreachable(f"{self.name} is gone.")

    # Buying.

    @to_its_end
    async def buy(self, order: Order, model: Model) -> Purchase:
        """Note an order before it is sent."""
        async with self._lock:
            self._check_open()
            await self._journal(lambda: self._ledger.begin(self.number, order, model, is_own=True))
            self.buyer.buy(order, now())
            return self.buyer.purchases[order.session]

    @to_its_end
    async def sign(self, signs: Sequence[Sign], tokens: Sequence[int] = (), note: str = "") -> Voucher | None:
        """Sign for what came, and write it down; return the voucher that is now to be sent.

        Parameters
        ----------
        tokens
            The answer so far, of the session that is signed for.
        """
        async with self._lock:
            left = list(signs)
            try:
                self._check_open()
                while left:
                    await self._sign(left[0], tokens, note)
                    del left[0]
            finally:
                for one in left:
                    self.buyer.take_back(one)
        return self.signed if signs else None

    async def _sign(self, one: Sign, tokens: Sequence[int], note: str) -> None:
        before = _body(self.signed)
        total, gifts = (before.total, before.gifts) if before is not None else (0, 0)
        is_session = one.kind == vouchers.Kind.WORK
        body = vouchers.Body(
            self.parties.payer,
            self.parties.payee,
            total + one.added,
            gifts if is_session else gifts + one.added,
            one.kind,
            one.session,
            one.tokens,
            digest_of(tokens[: one.tokens]) if is_session else NO_DIGEST,
            int(time.time()),
        )
        voucher = vouchers.sign(body, self.parties, self._signer)
        parts = {one.session: one.added} if is_session else {}
        await self._journal(
            functools.partial(self._ledger.note_voucher, self.number, voucher, body, parts, is_own=True, note=note)
        )
        self.signed = voucher
        self._note_signed()

    async def give(self, amount: int, kind: vouchers.Kind, note: str = "") -> Voucher | None:
        """Sign for something that was not received; raises `ValueError` for an amount that is not possible."""
        return await self.sign([self.buyer.give(amount, kind)], note=note)

    @to_its_end
    async def end_purchase(self, purchase: Purchase, receipt: tuple[Receipt, ReceiptBody] | None) -> None:
        """Note the end of a session that was bought."""
        session = purchase.order.session
        async with self._lock:
            self.buyer.close(session)
            await self._journal(
                lambda: self._ledger.end(
                    self.number,
                    session,
                    is_own=True,
                    generated=purchase.received,
                    receipt=receipt,
                    is_left=purchase.is_left and receipt is None,
                )
            )

    @to_its_end
    async def note_pace(self, pace: int) -> None:
        """Note how fast the other device says that it is (credits a second), for words about what it did."""
        if pace > 0 and pace != self.pace:
            self.pace = pace
            await self._journal(lambda: self._ledger.note_pace(self.number, pace))

    def _note_signed(self) -> None:
        balance = self.seller.balance.at(now(), self.seller.allowance)
        self.seller.balance = replace(balance, signed=self.buyer.signed, signed_gifts=self.buyer.gifts)
        self._told()

    async def _note_end(self, sale: Sale, receipt: tuple[Receipt, ReceiptBody] | None) -> None:
        balance, at_risk = self.seller.balance, self.seller.at_risk
        session, generated, written_off = sale.order.session, sale.generated, sale.written_off
        await self._journal(
            lambda: self._ledger.end(
                self.number,
                session,
                is_own=False,
                generated=generated,
                written_off=written_off,
                receipt=receipt,
                balance=balance,
                at_risk=at_risk,
            )
        )

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._told()


def now() -> int:
    """Return the time in milliseconds; a balance takes no earlier one than it knows."""
    return time.time_ns() // 1_000_000


def _body(voucher: Voucher | None) -> vouchers.Body | None:
    return vouchers.said(voucher) if voucher is not None else None
