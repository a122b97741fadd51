"""A session as its seller sees it, and what the seller is to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ainet.economy.order import Order


class Stage(enum.IntEnum):
    """How far a session of a seller is."""

    ACCEPTED = 0
    SOLD = 1
    READING = 2
    ENDED = 3


class Do(NamedTuple):
    """What a seller is to do now: say that it has sold, compute the prompt, or end the session."""

    what: Literal["say sold", "read prompt", "end"]
    session: bytes
    why: str = ""


@dataclass
class Sale:
    """A session as its seller sees it.

    Attributes
    ----------
    window
        Credits that may be charged and unacknowledged.
    charged, acknowledged, written_off
        Credits of this session.
    generated
        Tokens of the answer so far.
    """

    order: Order
    window: int
    stage: Stage = Stage.ACCEPTED
    charged: int = 0
    acknowledged: int = 0
    written_off: int = 0
    generated: int = 0
    #: What the account must have acknowledged before the prompt is computed.
    due: int = 0
    #: The charge of half of its prompt, among all of the account.
    number: int = 0
    #: Since when it waits for the buyer (ms); None: it does not.
    waiting: int | None = None

    @property
    def is_settled(self) -> bool:
        """Whether everything that was charged is acknowledged or written off."""
        return self.acknowledged + self.written_off >= self.charged
