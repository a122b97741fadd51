"""Receipts: what a seller has answered, with which model, signed by the seller."""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated

import msgspec

from ainet.economy.credits import Parameters, Price, Tokens
from ainet.economy.signed import Digest, RawKey, SessionId, Signature, Time, decoded
from ainet.errors import ProtocolError
from ainet.identity.keys import verifies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from ainet.economy.signed import Parties

DOMAIN = b"ainet receipt 1\0"
MAX_BODY = 320  # bytes
#: Seeds of sessions that are bought: chosen by the buyer.
Seed = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Finish(IntEnum):
    """How an answer ended."""

    STOP = 0
    LENGTH = 1
    CONTEXT = 2
    CANCELLED = 3


class ReceiptBody(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a receipt says.

    Attributes
    ----------
    seller, buyer
        Raw public keys.
    model
        SHA-256 of its manifest.
    parameters, price
        What its tokens cost; see `Rate`.
    seed
        With which the answer was drawn.
    prompt, generated
        Tokens of the prompt and of the answer.
    prompt_digest, output_digest
        SHA-256 over these tokens; see `digest_of`.
    time
        The seller's clock (unix seconds).
    """

    seller: RawKey
    buyer: RawKey
    session: SessionId
    model: Digest
    parameters: Parameters
    price: Price
    seed: Seed
    prompt: Tokens
    generated: Tokens
    prompt_digest: Digest
    output_digest: Digest
    finish: Finish
    time: Time


class Receipt(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An encoded `ReceiptBody`, and its seller's signature."""

    body: Annotated[bytes, msgspec.Meta(max_length=MAX_BODY)]
    signature: Signature


_decoder = msgspec.msgpack.Decoder(ReceiptBody)


def digest_of(tokens: Sequence[int]) -> bytes:
    """Return the SHA-256 over tokens, each as 32 bits, the lowest byte first."""
    return hashlib.sha256(struct.pack(f"<{len(tokens)}i", *tokens)).digest()


def sign(body: ReceiptBody, parties: Parties, signer: Callable[[bytes], bytes]) -> Receipt:
    """Return a receipt.

    Parameters
    ----------
    parties
        The buyer as payer, the seller as payee.
    signer
        Signs with the seller's device key.
    """
    encoded = msgspec.msgpack.encode(body)
    return Receipt(encoded, signer(parties.message(DOMAIN, encoded)))


def read(receipt: Receipt, parties: Parties, key: Ed25519PublicKey) -> ReceiptBody:
    """Return what a receipt says.

    Parameters
    ----------
    key
        The seller's.

    Raises
    ------
    ProtocolError
        It cannot be read, is not written as it should be, is of others, or was not signed by its seller.
    """
    body = decoded(receipt.body, _decoder, "receipt")
    if (body.buyer, body.seller) != (parties.payer, parties.payee):
        raise ProtocolError("A receipt is of other devices.")
    if not verifies(key, receipt.signature, parties.message(DOMAIN, receipt.body)):
        raise ProtocolError("A receipt is not signed by its seller, or was made for another swarm.")
    return body
