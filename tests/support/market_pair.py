"""A buyer and a seller with an account, a link that loses what is on it, disks, and the truth about what was done.

Ben buys from Ana. Either may be played by a cheat; `check` says whether the honest one lost more than the rules allow.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ainet.economy.balance import DAY_MS, Allowance, Balance
from ainet.economy.credits import Rate
from ainet.economy.order import Order
from ainet.economy.sale import Stage
from ainet.economy.session import Buyer, Seller
from ainet.economy.signed import Parties
from ainet.economy.voucher import Body, Kind, Voucher, read, sign
from ainet.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.economy.purchase import Sign
    from ainet.economy.sale import Do, Sale

ALLOWANCE = Allowance(daily=8_000, saved=16_000, grows_to=80_000)
RATE = Rate(parameters=7, price=1300)
WINDOW = RATE.cost(0, 64)
#: The longest prompt that is played.
LONGEST = 400


def key(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big"))


def raw(one: Ed25519PrivateKey) -> bytes:
    return one.public_key().public_bytes_raw()


ANA, BEN, EVE = key(1), key(2), key(3)
PARTIES = Parties(raw(BEN), raw(ANA), b"b" * 32, b"a" * 32)


def voucher(total: int, session: bytes = bytes(16), *, by: Ed25519PrivateKey = BEN, **fields: Any) -> Voucher:
    """Return a voucher of Ben's for Ana, with some fields changed."""
    body = Body(PARTIES.payer, PARTIES.payee, total, 0, Kind.WORK, session, 0, bytes(32), 0)
    return sign(replace_fields(body, fields), PARTIES, by.sign)


def replace_fields(body: Body, fields: dict[str, Any]) -> Body:
    return Body(**{name: fields.get(name, getattr(body, name)) for name in Body.__struct_fields__})


@dataclass(frozen=True)
class SellerDisk:
    """What a seller has written: the balance, what may be lost of open sessions, and the highest voucher."""

    balance: Balance
    at_risk: int = 0
    held: Voucher | None = None


@dataclass(frozen=True)
class BuyerDisk:
    """What a buyer has written: its totals, and its highest voucher."""

    total: int = 0
    gifts: int = 0
    newest: Voucher | None = None


class Pair:
    """Ana and Ben."""

    def __init__(self) -> None:
        self.moment = 1_000
        self.seller = Seller(Balance.new(self.moment, ALLOWANCE), ALLOWANCE)
        self.buyer = Buyer()
        self.seller_disk = SellerDisk(self.seller.balance)
        self.buyer_disk = BuyerDisk()
        self.backups: list[tuple[SellerDisk, BuyerDisk]] = [(self.seller_disk, self.buyer_disk)]
        self.is_linked = False
        self.is_seller_honest = True
        #: Whether Ben sends vouchers.
        self.pays = True
        self.to_seller: deque[Voucher] = deque()
        self.to_buyer: deque[tuple[Any, ...]] = deque()
        self.sent: list[Voucher] = []
        self.orders: dict[bytes, Order] = {}
        # The truth, in credits.
        self.did: dict[bytes, int] = {}  # the work that Ana did, by session
        self.came: dict[bytes, int] = {}  # what Ben got of it in order, and half of each prompt that was accepted
        self.tokens: dict[bytes, int] = {}  # that came in order
        self.sales: dict[bytes, Sale] = {}  # of Ana, also those that have ended
        #: What was acknowledged when Ana accepted a session: in all, of each session, and what was outstanding of it.
        self.accepted: dict[bytes, tuple[int, dict[bytes, tuple[int, int]]]] = {}
        self.gifts = self.gave = 0
        self.lost: list[int] = []  # by Ana, each time that a link was lost
        self.forgotten = 0  # by Ana's backups: of what was written off, and of what Ben signed and does not show
        self.began = self.moment
        self.broken = ""

    # Links.

    def meet(self) -> None:
        """Link the two. Each shows the highest voucher that it holds of the other, and Ben sends his own."""
        if self.is_linked:
            return
        self.is_linked = True
        held = self.seller_disk.held
        if held is not None and (body := read(held, PARTIES, BEN.public_key())) is not None:
            if body.total > self.buyer.signed:
                self.buyer_disk = BuyerDisk(body.total, body.gifts, held)
            self.buyer.shown(body.total, body.gifts)
        if self.pays and self.buyer_disk.newest is not None:
            self.to_seller.append(self.buyer_disk.newest)
        self.deliver()

    def cut(self) -> None:
        """Lose the link with all that is on it."""
        self.lost.append(self.seller.unacknowledged)
        self.seller.cut(self.moment)
        self.write_seller()
        self._lose_link()

    def deliver(self) -> None:
        """Let everything arrive."""
        while self.is_linked and (self.to_seller or self.to_buyer):
            if self.to_seller:
                self.hear(self.to_seller.popleft())
            else:
                kind, session, *rest = self.to_buyer.popleft()
                self._note(kind, session, *rest)
                self._pay(getattr(self.buyer, kind)(session, *rest))

    def hear(self, given: Voucher) -> None:
        """Let Ana have a voucher; a forged one ends the link."""
        try:
            body = read(given, PARTIES, BEN.public_key())
        except ProtocolError:
            self.cut()
            return
        if body is None:
            return
        is_higher = body.total > self.seller.balance.acknowledged
        did = self.seller.acknowledge(body.total, body.gifts, body.session, self.moment)
        self.write_seller(given if is_higher else None)
        self.do(did)

    # What they do.

    def order(self, session: bytes, prompt: int, most: int, *, counted: int | None = None, price: int = 0) -> bool:
        """Let Ben buy, if he may; `counted` and `price`: what Ana says instead of the truth."""
        order = Order(session, RATE, prompt, most)
        sold = order._replace(prompt=counted or prompt, rate=RATE._replace(price=price or RATE.price))
        if not self.is_linked or sold.whole > self.seller.left(self.moment):
            return False
        self.orders[session] = order
        self.buyer.buy(order, self.moment)
        did = self.seller.sell(sold, self.moment)
        self.sales[session] = self.seller.sales[session]
        self.do(did)
        self.write_seller()
        self.deliver()
        return True

    def do(self, did: Sequence[Do]) -> None:
        """Let Ana do what her machine says."""
        for one in did:
            sale = self.seller.sales[one.session]
            if one.what == "say sold":
                known = {
                    session: (other.acknowledged, other.charged - other.acknowledged - other.written_off)
                    for session, other in self.sales.items()
                    if session != one.session
                }
                self.accepted[one.session] = self.seller.balance.acknowledged, known
                self.to_buyer.append(("sold", one.session, sale.order.prompt, sale.order.rate.price, self.moment))
            elif one.what == "read prompt":
                if not self.is_half_paid(one.session):
                    self.broken = "a prompt was computed before half of it was acknowledged"
                self.did[one.session] = sale.order.half

    def is_half_paid(self, session: bytes) -> bool:
        """Whether half of a prompt was acknowledged, after all that was charged before by sessions that go on."""
        before, known = self.accepted[session]
        needed = self.sales[session].order.half
        for other, (paid, outstanding) in known.items():
            sale = self.sales[other]
            needed += min(sale.acknowledged - paid, outstanding) if sale.stage is Stage.ENDED else outstanding
        return self.seller.balance.acknowledged - before >= needed

    def generate(self, session: bytes, n: int, *, skips: int = 0, at_once: int = 5) -> int:
        """Let Ana answer with up to `n` tokens, as far as there is room; returns how many there were."""
        made = 0
        while made < n and self.is_linked and (room := min(self.seller.room(session), n - made, at_once)):
            sale = self.seller.sales[session]
            index = sale.generated
            self.seller.generated(session, room, self.moment)
            self.did[session] = sale.order.so_far(sale.generated)
            self.to_buyer.append(("said", session, index + skips, room, self.moment))
            made += room
            self.deliver()
        return made

    def finish(self, session: bytes, *, more: int = 0) -> None:
        """Let Ana end a session with a receipt; `more`: tokens that it counts and that did not come."""
        if session not in self.seller.sales:
            return
        sale = self.seller.end(session, self.moment)
        self.write_seller()
        self.do(self.seller.go_on(self.moment))
        self.to_buyer.append(("done", session, sale.order.prompt, sale.generated + more))
        self.deliver()

    def give(self, amount: int) -> None:
        """Let Ben give Ana something."""
        self.gifts += amount
        self._pay([self.buyer.give(amount, Kind.GIFT)])
        self.deliver()

    def return_work(self, amount: int) -> None:
        """Let Ben do work for Ana, who signs for it."""
        self.gave += amount
        balance = self.seller.balance
        self.seller.balance = replace(balance, signed=balance.signed + amount)
        self.write_seller()

    def wait(self, milliseconds: int) -> None:
        """Let time pass; who waited for too long ends sessions."""
        self.moment += milliseconds
        for one in self.seller.tick(self.moment):
            self.finish(one.session)

    # Disks.

    def write_seller(self, held: Voucher | None = None) -> None:
        at_risk = self.seller.at_risk
        self.seller_disk = SellerDisk(self.seller.balance, at_risk, held or self.seller_disk.held)

    def back_up(self) -> None:
        self.backups.append((self.seller_disk, self.buyer_disk))

    def restart_seller(self, backup: SellerDisk | None = None) -> None:
        """End Ana at once; she starts with what is on her disk, or with a backup."""
        self.lost.append(self.seller.unacknowledged)
        written_off = self.seller.balance.written_off + self.seller.unacknowledged
        self.seller_disk = disk = backup or self.seller_disk
        balance = replace(disk.balance, written_off=disk.balance.written_off + disk.at_risk)
        self.forgotten += max(written_off - balance.written_off, 0)
        shown = self.buyer_disk.total if self.pays else 0
        self.forgotten += max(self.seller.balance.acknowledged - max(balance.acknowledged, shown), 0)
        self.seller = Seller(balance, ALLOWANCE)
        self.sales.clear()
        self.write_seller()
        self._lose_link()

    def restart_buyer(self, backup: BuyerDisk | None = None) -> None:
        """End Ben at once; he starts with what is on his disk, or with a backup."""
        self.buyer_disk = disk = backup or self.buyer_disk
        self.buyer = Buyer(disk.total, disk.gifts)
        self.cut()

    # The rules.

    def check(self) -> None:
        """Fail if somebody lost more than the rules allow."""
        assert self.buyer.signed <= sum(self.came.values()) + self.gifts, "Ben signed for what he did not get"
        if not self.is_seller_honest:
            return
        assert not self.broken, self.broken
        limit = WINDOW + RATE.cost(LONGEST, 0) - RATE.first_half(LONGEST)
        assert self.seller.unacknowledged <= limit, "too much is charged and not acknowledged"
        assert max(self.lost, default=0) <= limit, "too much was lost with a link"
        leaked = (self.moment - self.began) * ALLOWANCE.daily // DAY_MS
        begun_at = Balance.new(0, ALLOWANCE).level
        may = ALLOWANCE.cap(self.gave) - begun_at + leaked + self.gave + self.forgotten
        assert sum(self.did.values()) <= may, "Ben had more than he gave and was given"

    def check_agreed(self) -> None:
        """Fail if the two do not agree although they met and everything arrived."""
        assert self.seller.balance.acknowledged == self.buyer.signed
        assert self.seller.balance.acknowledged_gifts == self.buyer.gifts

    def _lose_link(self) -> None:
        self.is_linked = False
        self.to_seller.clear()
        self.to_buyer.clear()
        for session in list(self.buyer.purchases):
            self._pay(self.buyer.end(session))
            self.buyer.close(session)
        self.to_seller.clear()

    def _note(self, kind: str, session: bytes, *said: int) -> None:
        """Note what has come to Ben."""
        order = self.orders[session]
        if kind == "sold" and said[:2] == (order.prompt, order.rate.price):
            self.came.setdefault(session, order.half)
        elif kind == "said" and session in self.came and said[0] == self.tokens.get(session, 0):
            self.tokens[session] = min(said[0] + said[1], order.most)
            self.came[session] = order.so_far(self.tokens[session])

    def _pay(self, signs: Sequence[Sign]) -> None:
        for one in signs:
            fields = {"gifts": one.gifts, "kind": one.kind, "tokens": one.tokens}
            newest = voucher(one.total, one.session, **fields)
            self.buyer_disk = BuyerDisk(one.total, one.gifts, newest)
            self.sent.append(newest)
            if self.pays:
                self.to_seller.append(newest)
