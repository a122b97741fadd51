"""Sessions that are paid as they stream: what a seller may do, and what a buyer signs.

Both are state machines without clock, files, network and chance: they are told what happened, and say what to do. One
of either kind keeps the account with one other device, over any number of sessions.

A seller charges half of the prompt when it accepts, and computes the prompt once that is acknowledged. It charges the
rest with the first token, and then each token. What is charged and not acknowledged is never more than one window and
half a prompt. Nobody pays ahead: who acknowledges more than was charged has raised what was charged.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ainet.economy.credits import MOST
from ainet.economy.order import PATIENCE, VOUCHER_EVERY, Order, window_of
from ainet.economy.purchase import Purchase, Sign
from ainet.economy.sale import Do, Sale, Stage
from ainet.economy.voucher import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ainet.economy.balance import Allowance, Balance
    from ainet.economy.shared_allowance import SharedAllowance


class _Charge(NamedTuple):
    """Credits that are charged; the charges of an account are numbered."""

    sale: Sale
    amount: int
    number: int


class Seller:
    """The account with a device that buys.

    Parameters
    ----------
    balance
        What is known of it.
    allowance
        What it may have beyond what it gave.
    patience
        Milliseconds without what the buyer owes, after which a session ends.
    """

    def __init__(self, balance: Balance, allowance: Allowance, *, patience: int = PATIENCE) -> None:
        self.balance = balance
        self.allowance = allowance
        self._patience = patience
        self.charged = balance.acknowledged
        self.sales: dict[bytes, Sale] = {}
        self.shared: SharedAllowance | None = None  # what it may have together with others
        #: Charges that are not acknowledged, the oldest first.
        self._charges: deque[_Charge] = deque()
        self._charged = 0  # how often
        self._window = 0

    def share(self, shared: SharedAllowance, account: int) -> None:
        """Use up an allowance together with other accounts; this one has that number there."""
        self.shared = shared
        shared.open(account, lambda: self.beyond)

    @property
    def unacknowledged(self) -> int:
        """Credits that are charged and not acknowledged."""
        return self.charged - self.balance.acknowledged

    @property
    def window(self) -> int:
        """The credits that may be unacknowledged: one window for all sessions."""
        return self._window

    @property
    def at_risk(self) -> int:
        """The most that can be unacknowledged at once, of all sessions."""
        return max(self._at_risk(self.window, (sale.order for sale in self.sales.values())), self.unacknowledged)

    def at_risk_with(self, order: Order, window: int) -> int:
        """Return the same with one more order, which is sold with a window of this many tokens."""
        orders = [*(sale.order for sale in self.sales.values()), order]
        return max(self._at_risk(max(self.window, window_of(order, window)), orders), self.unacknowledged)

    @staticmethod
    def _at_risk(window: int, orders: Iterable[Order]) -> int:
        found = list(orders)
        rest = max((order.rate.cost(order.prompt, 0) - order.half for order in found), default=0)
        return min(sum(order.whole for order in found), window + rest)

    def left(self, moment: int) -> int:
        """Return the credits that the buyer may still have, besides what its sessions may take."""
        self.balance = self.balance.at(moment, self.allowance)
        if self.shared is None:
            return max(self.balance.left(self.allowance) - self._open, 0)
        return self.shared.left(moment) + max(-self.beyond, 0)

    @property
    def daily(self) -> int:
        """The credits that come back in a day, also where others may have them."""
        return (self.shared or self).allowance.daily

    @property
    def beyond(self) -> int:
        """What the buyer has had beyond what it gave, and may yet have by its sessions; negative where it is owed."""
        return self.balance.level + self._open

    @property
    def _open(self) -> int:
        return self.unacknowledged + sum(sale.order.whole - sale.charged for sale in self.sales.values())

    def sell(self, order: Order, moment: int, *, window: int = 0) -> list[Do]:
        """Accept an order.

        Parameters
        ----------
        window
            Tokens that are generated in a second, where these are more than usual.

        Raises
        ------
        ValueError
            It costs more than `left`, or has the id of another one.
        """
        if order.session in self.sales:
            raise ValueError("the session exists")
        if order.whole > self.left(moment) or self.charged + order.whole > MOST:
            raise ValueError("too expensive")
        sale = self.sales[order.session] = Sale(order, window_of(order, window), waiting=moment)
        self._window = max(self._window, sale.window)
        return self.go_on(moment)

    def room(self, session: bytes) -> int:
        """Return how many tokens of an answer may be handed over now."""
        sale = self.sales.get(session)
        if sale is None or sale.stage is not Stage.READING:
            return 0
        order = sale.order
        room = self.window - self.unacknowledged
        if not sale.generated:
            return int(min(order.most, 1) if order.rate.cost(0, 1) <= room else 0)
        n = order.rate.tokens_for(sale.charged + room, order.prompt) - sale.generated
        return max(min(n, order.most - sale.generated), 0)

    def generated(self, session: bytes, n: int, moment: int) -> None:
        """Charge `n` tokens of an answer that are handed over; at most `room`.

        Raises
        ------
        ValueError
            They are more than that.
        """
        if not 0 < n <= self.room(session):
            raise ValueError("no room for these tokens")
        sale = self.sales[session]
        sale.generated += n
        self._charge(sale, sale.order.so_far(sale.generated) - sale.charged)
        sale.waiting = None if self.room(session) or sale.generated == sale.order.most else moment

    def acknowledge(self, total: int, gifts: int, session: bytes, moment: int) -> list[Do]:
        """Take a voucher of the buyer that was read; one that is not higher than what is known adds nothing."""
        added = total - self.balance.acknowledged
        if added <= 0:
            return []
        given = min(max(gifts - self.balance.acknowledged_gifts, 0), added)
        self.charged += given  # a gift pays for nothing: what it would pay for would count as given, and as never had
        unknown = max(total - self.charged, 0)  # what is known again after a backup was restored
        self.charged += unknown
        late = min(self.balance.written_off, unknown)
        balance = self.balance.at(moment, self.allowance)
        self.balance = replace(
            balance,
            acknowledged=total,
            acknowledged_gifts=balance.acknowledged_gifts + given,
            written_off=balance.written_off - late,
            # What strangers say that they had once uses up nothing: else one of them would use up what all share.
            leaked=balance.leaked + (unknown - late if self.shared is not None else 0),
        )
        self._settle(session, added - given - unknown)
        for sale in self.sales.values():
            if sale.stage is Stage.SOLD:
                sale.due += given + unknown  # neither pays for half of its prompt
            elif self.room(sale.order.session):
                sale.waiting = None
            elif sale.waiting is None:  # what does not suffice for a token does not prolong the wait
                sale.waiting = moment
        return self.go_on(moment)

    def remember(self) -> Callable[[], None]:
        """Return what takes back all that happens from now on: it could not be written down."""
        balance, charged, charges = self.balance, self.charged, deque(self._charges)
        sales = {id(sale): sale for sale in (*self.sales.values(), *(charge.sale for charge in charges))}
        before = [(sale, replace(sale)) for sale in sales.values()]

        def take_back() -> None:
            self.balance, self.charged, self._charges = balance, charged, charges
            for sale, known in before:
                vars(sale).update(vars(known))

        return take_back

    def tick(self, moment: int) -> list[Do]:
        """Return which sessions end because their buyer is silent."""
        return [
            Do("end", session, "unpaid")
            for session, sale in self.sales.items()
            if sale.waiting is not None and moment - sale.waiting >= self._patience
        ]

    def end(self, session: bytes, moment: int, *, is_done: bool = False) -> Sale:
        """End a session: what it has not taken can be had by others. What is charged can still be acknowledged.

        Parameters
        ----------
        is_done
            Whether the answer has come to its end.
        """
        sale = self.sales.pop(session)
        is_read, sale.stage = sale.stage is Stage.READING, Stage.ENDED
        for charge in self._charges:
            if charge.sale is sale:  # it may never have come, and nobody else waits for it
                self._change_dues(charge.number, -charge.amount)
        self._window = max((one.window for one in self.sales.values()), default=0)
        self.balance = self.balance.at(moment, self.allowance)
        if self.shared is not None and is_read and not (sale.generated or is_done):
            # The other half of the prompt was read for a name that may not come back.
            rest = sale.order.rate.cost(sale.order.prompt, 0) - sale.order.half
            self.balance = replace(self.balance, written_off=self.balance.written_off + rest)
        return sale

    def write_off(self, sale: Sale, moment: int) -> int:
        """Count what an ended session has not acknowledged as had; returns these credits."""
        amount = sum(charge.amount for charge in self._charges if charge.sale is sale)
        self._charges = deque(charge for charge in self._charges if charge.sale is not sale)
        sale.written_off += amount
        self.charged -= amount
        self.balance = self.balance.at(moment, self.allowance)
        self.balance = replace(self.balance, written_off=self.balance.written_off + amount)
        return amount

    def cut(self, moment: int) -> list[Sale]:
        """End all sessions, as the link was lost: what is unacknowledged is written off, and counts as had."""
        ended = [self.end(session, moment) for session in list(self.sales)]
        for charge in self._charges:
            charge.sale.written_off += charge.amount
        self._charges.clear()
        self.balance = replace(self.balance, written_off=self.balance.written_off + self.unacknowledged)
        self.charged = self.balance.acknowledged
        return ended

    def go_on(self, moment: int) -> list[Do]:
        """Return what can be done now that something was acknowledged, or that a session has ended."""
        found = []
        for session, sale in self.sales.items():
            if sale.stage is Stage.ACCEPTED and self.unacknowledged <= self.window:
                self._charge(sale, sale.order.half)
                ended = sum(charge.amount for charge in self._charges if charge.sale.stage is Stage.ENDED)
                sale.due, sale.number = self.charged - ended, self._charged
                sale.stage, sale.waiting = Stage.SOLD, moment
                found.append(Do("say sold", session))
            if sale.stage is Stage.SOLD and self.balance.acknowledged >= sale.due:
                sale.stage, sale.waiting = Stage.READING, None
                found.append(Do("read prompt", session))
        return found

    def _charge(self, sale: Sale, amount: int) -> None:
        sale.charged += amount
        self.charged += amount
        if amount:
            self._charged += 1
            self._charges.append(_Charge(sale, amount, self._charged))

    def _settle(self, session: bytes, amount: int) -> None:
        """Note whose charges are acknowledged.

        First come those of the session that the voucher names, then the oldest of sessions that go on: what others have
        left may never have come.
        """
        for own, ended in ((True, False), (True, True), (False, False), (False, True)):
            kept: deque[_Charge] = deque()
            for charge in self._charges:
                sale = charge.sale
                is_next = (sale.order.session == session) is own and (sale.stage is Stage.ENDED) is ended
                part = min(charge.amount, amount) if is_next else 0
                amount -= part
                sale.acknowledged += part
                if ended:  # it pays for nothing else
                    self._change_dues(charge.number, part)
                if charge.amount > part:
                    kept.append(charge._replace(amount=charge.amount - part))
            self._charges = kept

    def _change_dues(self, number: int, amount: int) -> None:
        """Change what is to be acknowledged before prompts are read, of sales that came after a charge."""
        for sale in self.sales.values():
            if sale.stage is Stage.SOLD and number < sale.number:
                sale.due += amount


class Buyer:
    """The account with a device that sells.

    Parameters
    ----------
    signed, gifts
        The totals of the highest voucher for it.
    """

    def __init__(self, signed: int = 0, gifts: int = 0) -> None:
        self.signed = signed
        self.gifts = gifts
        self.purchases: dict[bytes, Purchase] = {}

    def shown(self, total: int, gifts: int) -> None:
        """Take the highest own voucher that the seller holds: this device may have been restored from a backup."""
        if total > self.signed:
            self.signed, self.gifts = total, gifts

    def buy(self, order: Order, moment: int) -> None:
        """Note an order before it is sent."""
        if order.session in self.purchases:
            raise ValueError("the session exists")
        self.purchases[order.session] = Purchase(order, moment)

    def sold(self, session: bytes, prompt: int, price: int, moment: int) -> list[Sign]:
        """Take the seller's word that it has accepted, with its count of the prompt's tokens and its price."""
        purchase = self._of(session)
        if purchase is None:
            return []
        purchase.heard = moment
        order = purchase.order
        if purchase.is_sold:
            return self._wrong(purchase, "it said twice that it had accepted")
        if prompt != order.prompt:
            return self._wrong(purchase, f"it counts {prompt:,} tokens in a prompt of {order.prompt:,}")
        if price != order.rate.price:
            return self._wrong(purchase, f"it asks {price:,} where {order.rate.price:,} was agreed")
        purchase.is_sold = True
        return self._sign(purchase)

    def said(self, session: bytes, index: int, n: int, moment: int) -> list[Sign]:
        """Take `n` tokens of the answer, the first of which is token `index`."""
        purchase = self._of(session)
        if purchase is None:
            return []
        purchase.heard = moment
        if not purchase.is_sold:
            return self._wrong(purchase, "it answered before it had accepted")
        if index != purchase.received:
            return self._wrong(purchase, f"it sent token {index:,} where {purchase.received:,} was next")
        if purchase.received + n > purchase.order.most:
            return self._wrong(purchase, f"it sent more than the {purchase.order.most:,} tokens that were asked for")
        is_first = n > 0 and not purchase.received
        purchase.received += n
        if is_first or purchase.received - purchase.signed_tokens >= VOUCHER_EVERY:
            return self._sign(purchase)
        return []

    def done(self, session: bytes, prompt: int, generated: int) -> list[Sign]:
        """Take the seller's receipt; its counts must be those of what came."""
        purchase = self._of(session)
        if purchase is None:
            return []
        if (prompt, generated) != (purchase.order.prompt, purchase.received):
            return self._wrong(purchase, f"its receipt counts {prompt:,} and {generated:,} tokens")
        purchase.is_over = True
        return self._sign(purchase)

    def tick(self, moment: int) -> list[bytes]:
        """Return the sessions whose seller has been silent for too long."""
        silent = [one for one in self.purchases.values() if not one.is_over and moment - one.heard >= PATIENCE]
        return [one.order.session for one in silent]

    def end(self, session: bytes) -> list[Sign]:
        """End a session: what came is signed for, unless something was wrong."""
        purchase = self._of(session)
        if purchase is None:
            return []
        purchase.is_over = True
        return self._sign(purchase)

    def close(self, session: bytes) -> Purchase:
        """Take a session out of the account."""
        return self.purchases.pop(session)

    def give(self, amount: int, kind: Kind) -> Sign:
        """Return the voucher for a gift.

        Raises
        ------
        ValueError
            The amount is not possible.
        """
        if amount <= 0 or self.signed + amount > MOST:
            raise ValueError("no such gift")
        self.signed += amount
        self.gifts += amount
        return Sign(self.signed, self.gifts, kind, bytes(16), 0, amount)

    def take_back(self, sign: Sign) -> None:
        """Take back what could not be written down: it is not signed, and what came is signed for with what comes."""
        self.signed -= sign.added
        if sign.kind is not Kind.WORK:
            self.gifts -= sign.added
        elif sign.session in self.purchases:
            self.purchases[sign.session].signed -= sign.added

    def _of(self, session: bytes) -> Purchase | None:
        purchase = self.purchases.get(session)
        return None if purchase is None or purchase.is_over else purchase

    def _sign(self, purchase: Purchase) -> list[Sign]:
        added = purchase.due - purchase.signed
        if added <= 0:
            return []
        purchase.signed += added
        purchase.signed_tokens = purchase.received
        self.signed += added
        return [Sign(self.signed, self.gifts, Kind.WORK, purchase.order.session, purchase.received, added)]

    def _wrong(self, purchase: Purchase, why: str) -> list[Sign]:
        """End a session in which the seller did something wrong: nothing more is signed for it."""
        purchase.wrong, purchase.is_over = why, True
        return []
