"""Vouchers: what one device has received from another one in all, signed by who received it.

A voucher is payment, acknowledgement and evidence in one. Of two the higher one holds, so they may arrive twice, late,
in any order, or from a backup. They form no chain: nothing can fork.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

from ainet.economy.credits import Credits, Tokens
from ainet.errors import ProtocolError
from ainet.identity.keys import verifies

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

DOMAIN = b"ainet voucher 1\0"
MAX_BODY = 192  # bytes
SESSION_BYTES = 16

RawKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
SessionId = Annotated[bytes, msgspec.Meta(min_length=SESSION_BYTES, max_length=SESSION_BYTES)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Time = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]


class Kind(IntEnum):
    """What a voucher was signed for."""

    WORK = 0
    GIFT = 1
    BONUS = 2


class Parties(NamedTuple):
    """Who signs and who is paid: raw public keys, and what identifies the swarms of both.

    The swarms are part of what is signed, but do not travel: both sides know them.
    """

    payer: bytes
    payee: bytes
    payer_swarm: bytes
    payee_swarm: bytes

    @property
    def reversed(self) -> Parties:
        """The same devices the other way round."""
        return Parties(self.payee, self.payer, self.payee_swarm, self.payer_swarm)


class Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a voucher says.

    Attributes
    ----------
    payer, payee
        Raw public keys of the device that received work and of the one that did it.
    total
        The credits of everything that the payer has received so far, and of its gifts.
    gifts
        The part of it that is gifts and bonuses.
    kind
        What raised the total last.
    session
        The session that raised it; zeros for none.
    tokens
        Tokens of that session's answer so far.
    digest
        SHA-256 over these tokens.
    time
        The payer's clock (unix seconds): for people, never for order.
    """

    payer: RawKey
    payee: RawKey
    total: Credits
    gifts: Credits
    kind: Kind
    session: SessionId
    tokens: Tokens
    digest: Digest
    time: Time


class Voucher(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An encoded `Body`, and its payer's signature."""

    body: Annotated[bytes, msgspec.Meta(max_length=MAX_BODY)]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


_decoder = msgspec.msgpack.Decoder(Body)
_encoder = msgspec.msgpack.Encoder()


def sign(body: Body, parties: Parties, signer: Callable[[bytes], bytes]) -> Voucher:
    """Return a voucher.

    Parameters
    ----------
    signer
        Signs with the payer's device key.
    """
    encoded = _encoder.encode(body)
    return Voucher(encoded, signer(_signed(encoded, parties)))


def read(voucher: Voucher, parties: Parties, key: Ed25519PublicKey) -> Body | None:
    """Return what a voucher says; None where it is between others than `parties`, and so worth nothing here.

    Parameters
    ----------
    key
        The payer's; `public_key_of` has refused weak ones.

    Raises
    ------
    ProtocolError
        It cannot be read, is not written as it should be, or was not signed by its payer.
    """
    try:
        body = _decoder.decode(voucher.body)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"A voucher cannot be read ({exc}).") from exc
    if _encoder.encode(body) != voucher.body:
        raise ProtocolError("A voucher is not written in the one way in which vouchers are.")
    if (body.payer, body.payee) != (parties.payer, parties.payee):
        return None
    if not verifies(key, voucher.signature, _signed(voucher.body, parties)):
        raise ProtocolError("A voucher is not signed by its payer, or was made for another swarm.")
    return body


def _signed(encoded: bytes, parties: Parties) -> bytes:
    return b"".join((DOMAIN, parties.payer_swarm, parties.payee_swarm, encoded))
