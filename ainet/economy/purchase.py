"""A session as its buyer sees it, and what the buyer is to sign."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ainet.economy.order import Order

if TYPE_CHECKING:
    from ainet.economy.voucher import Kind


class Sign(NamedTuple):
    """A voucher to be signed, journalled and sent: the new totals, the session that raised them, and by how much."""

    total: int
    gifts: int
    kind: Kind
    session: bytes
    tokens: int
    added: int


@dataclass
class Purchase:
    """A session as its buyer sees it.

    Attributes
    ----------
    received
        Tokens of the answer that came, in order.
    is_sold
        Whether the seller has accepted it.
    signed
        Credits of it that were signed for.
    heard
        When the seller said something last (ms).
    wrong
        What was wrong with what the seller said; empty for nothing.
    is_left
        Whether this device has ended it, by no fault of the seller.
    """

    order: Order
    heard: int
    received: int = 0
    is_sold: bool = False
    signed: int = 0
    signed_tokens: int = 0
    wrong: str = ""
    is_left: bool = False
    is_over: bool = field(default=False)

    @property
    def due(self) -> int:
        """What came, in credits, and half the prompt."""
        return self.order.so_far(self.received) if self.is_sold else 0
