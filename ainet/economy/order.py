"""What is bought in a session, and what both sides go by."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ainet.economy.credits import Rate

#: Tokens that are generated before any of them is acknowledged, and tokens after which a buyer signs.
WINDOW, VOUCHER_EVERY = 64, 16
#: After this time (ms) without what the other side owes, a session ends.
PATIENCE = 30_000


class Order(NamedTuple):
    """What is bought.

    Attributes
    ----------
    session
        Its id: random, 16 bytes.
    rate
        What tokens cost.
    prompt
        Tokens of the prompt.
    most
        Most tokens of the answer.
    """

    session: bytes
    rate: Rate
    prompt: int
    most: int

    @property
    def whole(self) -> int:
        """The most that it can cost."""
        return self.rate.cost(self.prompt, self.most)

    @property
    def half(self) -> int:
        """What is due before the prompt is computed."""
        return self.rate.first_half(self.prompt)

    def so_far(self, generated: int) -> int:
        """Return what is due with this number of tokens of the answer; with none, half the prompt."""
        return self.rate.cost(self.prompt, generated) if generated else self.half


def window_of(order: Order, tokens: int) -> int:
    """Return the credits that may be unacknowledged, of an answer with this many tokens a second."""
    return order.rate.cost(0, max(WINDOW, tokens))
