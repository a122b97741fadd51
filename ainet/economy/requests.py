"""What devices of different owners ask each other when they buy and sell: these five requests, and nothing else."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ainet.economy.credits import Credits, Parameters, Price, Tokens
from ainet.economy.receipt import Receipt
from ainet.economy.signed import Digest, SessionId
from ainet.economy.voucher import Voucher
from ainet.economy.wants import MOST_WANTS, Want
from ainet.links.request import Request
from ainet.links.standing import Standing
from ainet.models.tokenizer import Tokenizer
from ainet.stages.protocol.sampling_params import SamplingParams

MAX_OFFERS = 64
MAX_CONTEXT = 1 << 20  # tokens
MAX_STOPS, MAX_STOP = 16, 1000
#: Bytes of a vocabulary that travel at once, and of the largest one.
PIECE, MAX_VOCABULARY = 1 << 18, 1 << 26

ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Words = Annotated[str, msgspec.Meta(max_length=300)]
Token = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
TokenList = Annotated[list[Token], msgspec.Meta(max_length=MAX_CONTEXT)]
Stops = Annotated[
    list[Annotated[str, msgspec.Meta(max_length=MAX_STOP)]],
    msgspec.Meta(max_length=MAX_STOPS),
]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Shown(msgspec.Struct, frozen=True):
    """What a device holds of an account: the highest voucher of the other one, and its own highest one."""

    held: Voucher | None
    signed: Voucher | None


class ShowAccount(Request, frozen=True):
    """Show the account, and ask for the other side of it: one of the two may have been restored from a backup."""

    reply = Shown
    audience = Standing.STRANGER

    held: Voucher | None
    signed: Voucher | None


class Offer(msgspec.Struct, frozen=True):
    """A model that is sold.

    Attributes
    ----------
    model
        SHA-256 of its manifest.
    parameters, price
        What tokens cost; see `Rate`.
    reason
        Why they cost that, in words.
    window
        Most tokens of a prompt and its answer together.
    starts_in
        Seconds until a session that is bought now would begin.
    tokens_per_s
        The speed of its answers.
    tokenizer
        Its vocabulary.
    """

    model: Digest
    name: ModelName
    parameters: Parameters
    price: Price
    reason: Words
    window: Tokens
    starts_in: Seconds
    tokens_per_s: Seconds
    tokenizer: Tokenizer


class Piece(msgspec.Struct, frozen=True):
    """A piece of a vocabulary."""

    data: Annotated[bytes, msgspec.Meta(max_length=PIECE)]


class Prices(msgspec.Struct, frozen=True):
    """What a device sells now.

    Attributes
    ----------
    left
        Credits that the asker may have.
    daily
        Credits of its allowance in a day.
    pace
        Credits of what the device computes in a second.
    why_not
        Why it sells nothing now; empty where it does.
    """

    offers: Annotated[list[Offer], msgspec.Meta(max_length=MAX_OFFERS)]
    left: Credits
    daily: Credits
    pace: Credits
    why_not: Words = ""


class AskPrice(Request, frozen=True):
    """Ask what a device sells now, and for a vocabulary of it.

    Attributes
    ----------
    tokenizer
        Hash of the vocabulary that comes before the answer; None for none.
    model
        Which model is wanted; None where any will do.
    wants
        What the asker promises a bonus for.
    """

    progress = Piece
    reply = Prices
    audience = Standing.STRANGER

    tokenizer: Hex | None = None
    model: ModelName | None = None
    wants: Annotated[list[Want], msgspec.Meta(max_length=MOST_WANTS)] = msgspec.field(default_factory=list)


class Getting(msgspec.Struct, frozen=True, tag=True):
    """The seller is getting ready, in words; nothing is charged yet."""

    words: Words


class Sold(msgspec.Struct, frozen=True, tag=True):
    """The seller has accepted, for a prompt of this many tokens and at this price."""

    prompt: Tokens
    price: Price


class SaidTokens(msgspec.Struct, frozen=True, tag=True):
    """Tokens of the answer, the first of which is token `index`, and the text that became certain with them."""

    index: Tokens
    tokens: TokenList
    text: Annotated[str, msgspec.Meta(max_length=1 << 20)]


class Judged(msgspec.Struct, frozen=True, tag=True):
    """How much better each token of an answer could have been, and its end, if it ended by itself; from 0 to 1."""

    margins: Annotated[list[Annotated[float, msgspec.Meta(ge=0, le=1)]], msgspec.Meta(max_length=MAX_CONTEXT)]


class SaleEvent(msgspec.Struct, frozen=True):
    """Something that happened in a session."""

    event: Getting | Sold | SaidTokens | Judged


class Ended(msgspec.Struct, frozen=True):
    """The end of a session: its receipt, and the text that was held back."""

    receipt: Receipt
    text: Annotated[str, msgspec.Meta(max_length=1 << 20)]


class Buy(Request, frozen=True, kw_only=True):
    """Buy an answer.

    Attributes
    ----------
    session
        Random.
    model
        SHA-256 of the model's manifest.
    prompt, said
        Tokens of the prompt, and of what another seller has answered before: it counts as prompt.
    sampling
        How tokens are drawn; the seed is the buyer's.
    most
        Most tokens of the answer.
    price
        The highest price.
    stop
        Texts that end the answer.
    """

    progress = SaleEvent
    reply = Ended
    audience = Standing.STRANGER

    session: SessionId
    model: Digest
    prompt: TokenList
    said: TokenList = msgspec.field(default_factory=list)
    sampling: SamplingParams
    most: Annotated[int, msgspec.Meta(ge=1, le=MAX_CONTEXT)]
    price: Price
    stop: Stops = msgspec.field(default_factory=list)


class CheckAnswer(Request, frozen=True, kw_only=True):
    """Buy the check of an answer that another device has given: it is read like a prompt.

    It is paid like an answer of one token, which is 0.

    Attributes
    ----------
    session, model, prompt, said, sampling, price
        As in `Buy`.
    tokens, ended
        The answer, and whether it ended by itself.
    """

    progress = SaleEvent
    reply = Ended
    audience = Standing.STRANGER

    session: SessionId
    model: Digest
    prompt: TokenList
    said: TokenList = msgspec.field(default_factory=list)
    tokens: TokenList
    ended: bool
    sampling: SamplingParams
    price: Price

    @property
    def order(self) -> Buy:
        """The same in the form in which answers are bought: all that is read counts as prompt."""
        return Buy(
            session=self.session,
            model=self.model,
            prompt=self.prompt,
            said=[*self.said, *self.tokens],
            sampling=self.sampling,
            most=1,
            price=self.price,
        )


class Pay(Request, frozen=True):
    """Acknowledge what was received."""

    audience = Standing.STRANGER

    voucher: Voucher
