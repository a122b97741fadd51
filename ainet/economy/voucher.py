"""Vouchers: what one device has received from another one in all, signed by who received it.

A voucher is payment, acknowledgement and evidence in one. Of two the higher one holds, so they may arrive twice, late,
in any order, or from a backup. They form no chain: nothing can fork.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Annotated

import msgspec

from ainet.economy.credits import Credits, Tokens
from ainet.economy.signed import Digest, RawKey, SessionId, Signature, Time, decoded
from ainet.errors import ProtocolError
from ainet.identity.keys import verifies

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from ainet.economy.signed import Parties

DOMAIN = b"ainet voucher 1\0"
MAX_BODY = 192  # bytes


class Kind(IntEnum):
    """What a voucher was signed for."""

    WORK = 0
    GIFT = 1
    BONUS = 2


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
    signature: Signature


_decoder = msgspec.msgpack.Decoder(Body)


def sign(body: Body, parties: Parties, signer: Callable[[bytes], bytes]) -> Voucher:
    """Return a voucher.

    Parameters
    ----------
    signer
        Signs with the payer's device key.
    """
    encoded = msgspec.msgpack.encode(body)
    return Voucher(encoded, signer(parties.message(DOMAIN, encoded)))


def said(voucher: Voucher) -> Body:
    """Return what a voucher says that was read, and checked, before."""
    return _decoder.decode(voucher.body)


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
    body = decoded(voucher.body, _decoder, "voucher")
    if (body.payer, body.payee) != (parties.payer, parties.payee):
        return None
    if not verifies(key, voucher.signature, parties.message(DOMAIN, voucher.body)):
        raise ProtocolError("A voucher is not signed by its payer, or was made for another swarm.")
    return body
