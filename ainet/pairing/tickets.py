"""Tickets: the text that lets one device join, and the inviting device's memory of it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from ainet.errors import AinetError, Refused, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "ainet1-"
MAX_TEXT = 2000  # characters
MAX_TRIES = 5
MAX_MINUTES = 24 * 60
MAX_TICKETS = 256  # remembered
_CHECKSUM = 4  # bytes of SHA-256: for slips of the pen, not against enemies


Purpose = Literal["join", "introduce"]


class Ticket(msgspec.Struct, frozen=True, array_like=True):
    """The knowledge of a joining device.

    Attributes
    ----------
    addresses
        The address on which the inviting device waits: "host:port".
    fingerprint
        SHA-256 of the public key of the swarm's CA.
    id
        Names the ticket; not secret.
    secret
        128 random bits; the inviting device keeps a hash of them only.
    purpose
        Whether it lets a device join the swarm, or introduces one of another owner.
    """

    addresses: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=128)], ...], msgspec.Meta(min_length=1, max_length=8)
    ]
    fingerprint: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    id: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    secret: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    purpose: Purpose = "join"

    def __repr__(self) -> str:
        return f"Ticket({self.id.hex()})"  # the secret must not end in a log

    def __str__(self) -> str:
        body = msgspec.msgpack.encode(self)
        data = body + hashlib.sha256(body).digest()[:_CHECKSUM]
        return PREFIX + base64.b32encode(data).decode().rstrip("=").lower()

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Return the ticket in `text`; line breaks and capitals do not matter.

        Raises
        ------
        Refused
            The text is no ticket, or was not copied whole.
        """
        text = "".join(text.split()).lower() if len(text) <= MAX_TEXT else ""
        if not text.startswith(PREFIX):
            raise Refused(f"This is not a ticket: one begins with {PREFIX} and is printed by `ainet invite`.")
        try:
            coded = text.removeprefix(PREFIX).upper()
            data = base64.b32decode(coded + "=" * (-len(coded) % 8))
            body, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
            if hashlib.sha256(body).digest()[:_CHECKSUM] != checksum:
                raise ValueError
            return msgspec.msgpack.decode(body, type=cls)
        except (ValueError, RecursionError) as exc:
            raise Refused("The ticket is damaged: its checksum is wrong. Copy it again, whole.") from exc

    @property
    def key(self) -> bytes:
        """The key of `proof`: a hash of the secret."""
        return hashlib.sha256(b"ainet ticket key\0" + self.secret).digest()


def proof(key: bytes, certificate: bytes, request: bytes) -> bytes:
    """Return the HMAC by which a joiner proves the secret, over the channel that it sees.

    Parameters
    ----------
    certificate
        The server's leaf certificate (DER) on this connection: a proof made for another server is worthless here.
    request
        The joiner's own request, which therefore nobody can change.
    """
    message = b"ainet join\0" + hashlib.sha256(certificate).digest() + request
    return hmac.digest(key, message, "sha256")


class _Issued:
    def __init__(self, key: bytes, expires: float, purpose: Purpose) -> None:
        self.key: bytes | None = key  # until it is used up
        self.purpose = purpose
        self.expires = expires
        self.tries = 0
        self.used_by = ""


class TicketBook:
    """The tickets that this device gave out. They live as long as the process: a restart voids them.

    Parameters
    ----------
    now
        Unix seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._issued: dict[bytes, _Issued] = {}

    def new(
        self, addresses: tuple[str, ...], fingerprint: bytes, minutes: float, purpose: Purpose = "join"
    ) -> tuple[Ticket, float]:
        """Return a new ticket, and when it expires (unix seconds)."""
        if not 0 < minutes <= MAX_MINUTES:
            raise UsageError(f"A ticket lives more than 0 and at most {MAX_MINUTES} minutes.")
        if len(self._issued) >= MAX_TICKETS:
            dead = next((number for number in self._issued if not self.lives(number)), None)
            if dead is None:
                raise UsageError(f"{MAX_TICKETS} tickets are open already. Wait until some expire.")
            del self._issued[dead]
        ticket = Ticket(addresses, fingerprint, secrets.token_bytes(8), secrets.token_bytes(16), purpose)
        expires = self._now() + 60 * minutes
        self._issued[ticket.id] = _Issued(ticket.key, expires, purpose)
        return ticket, expires

    def lives(self, ticket_id: bytes) -> bool:
        """Tell whether the ticket can still be used."""
        issued = self._issued.get(ticket_id)
        return issued is not None and issued.key is not None and self._now() < issued.expires

    def expire(self, ticket_id: bytes) -> None:
        """End the ticket's time, whatever the clock says."""
        if ticket_id in self._issued:
            self._issued[ticket_id].expires = 0.0

    def check(
        self, ticket_id: bytes, certificate: bytes, request: bytes, given: bytes, purpose: Purpose = "join"
    ) -> None:
        """Count a try, and raise `Refused` unless `given` is the proof for a ticket of this purpose that lives."""
        issued = self._issued.get(ticket_id)
        if issued is None or issued.purpose != purpose:
            raise Refused("This device did not give out that ticket, or was restarted since. Ask for a new one.")
        if issued.used_by:
            raise Refused("The ticket was used already: each lets one device join. Ask for a new one.")
        if self._now() >= issued.expires:
            raise Refused("The ticket has expired. Ask for a new one.")
        if issued.key is None:
            raise Refused(f"The ticket is void: it was tried {MAX_TRIES} times with a wrong secret. Ask for a new one.")
        issued.tries += 1
        if not hmac.compare_digest(proof(issued.key, certificate, request), given):
            if issued.tries >= MAX_TRIES:
                issued.key = None
            raise Refused(
                f"The ticket's secret is wrong (try {issued.tries} of {MAX_TRIES}). Copy the ticket again, whole."
            )

    def burn(self, ticket_id: bytes, used_by: str) -> None:
        """Void the ticket, which `used_by` used."""
        issued = self._issued[ticket_id]
        if issued.used_by:
            raise AinetError("The ticket was used twice.")
        issued.key, issued.used_by = None, used_by
