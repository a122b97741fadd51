"""The unit of the economy: credits, whole numbers that say how much a model has computed.

A token of the prompt is worth the parameters (in millions) that are active for it, one of the answer three times as
much, at the price 1000. Every sum is of whole numbers, so both sides of an account come to the same one.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

#: How much more a token of the answer is worth than one of the prompt: it takes a reading of all weights.
GENERATED = 3
#: The price at which credits say what was computed, and the limits of every other price.
UNIT_PRICE, LOWEST_PRICE, HIGHEST_PRICE = 1000, 1, 1_000_000
MOST_PARAMETERS = 10_000_000  # millions
MOST_TOKENS = 1 << 31
#: The most that a counter says: what a column of SQLite holds.
MOST = (1 << 63) - 1

Credits = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
Price = Annotated[int, msgspec.Meta(ge=LOWEST_PRICE, le=HIGHEST_PRICE)]
Parameters = Annotated[int, msgspec.Meta(ge=1, le=MOST_PARAMETERS)]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]


class Rate(NamedTuple):
    """What the tokens of a session cost.

    Attributes
    ----------
    parameters
        Active parameters of the model, in millions.
    price
        In thousandths of what was computed.
    """

    parameters: int
    price: int = UNIT_PRICE

    def cost(self, prompt: int, generated: int) -> int:
        """Return the credits for tokens of a prompt and of an answer, rounded up.

        It grows with both, so that what a session has cost so far is never less later.
        """
        return -(-self.parameters * (prompt + GENERATED * generated) * self.price // UNIT_PRICE)

    def tokens_for(self, amount: int, prompt: int) -> int:
        """Return how many tokens of an answer an amount pays for, with the prompt."""
        each = self.parameters * self.price
        return (amount * UNIT_PRICE // each - prompt) // GENERATED

    def first_half(self, prompt: int) -> int:
        """Return the credits that are due before a prompt is computed: for half of its tokens, one at least."""
        return self.cost(max(prompt // 2, min(prompt, 1)), 0)


def millions(parameters: int) -> int:
    """Return a number of parameters in millions, at least one."""
    return max(1, round(parameters / 1e6))
