"""Introductions: how devices of two owners become contacts, each pinning the other's key.

The introducing device gives out a ticket and proves itself as for pairing. The accepting one proves the ticket's secret
over the channel that it sees, and its device key by a signature. Neither becomes a member of the other's swarm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from ainet.errors import ProtocolError, Refused, UsageError
from ainet.identity.certificates import certificate_id, check_issued, load, read_ca, to_der
from ainet.identity.contacts import Contact
from ainet.identity.keys import public_key_of, verifies
from ainet.identity.roster import Name, check_name
from ainet.links.frames import Addresses, Introduce, Introduced
from ainet.pairing.tickets import proof

if TYPE_CHECKING:
    from ainet.identity.identity import Identity
    from ainet.links.links import Links
    from ainet.pairing.tickets import Ticket, TicketBook

_DOMAIN = b"ainet introduction\0"


class Card(msgspec.Struct, frozen=True, array_like=True):
    """The accepting device: its certificate and that of its swarm's CA (DER), and its addresses."""

    ticket: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    name: Name
    addresses: Addresses
    certificate: Annotated[bytes, msgspec.Meta(max_length=8192)]
    ca: Annotated[bytes, msgspec.Meta(max_length=8192)]


class Introductions:
    """Makes contacts.

    Parameters
    ----------
    identity, links, tickets
        Of this node.
    """

    def __init__(self, identity: Identity, links: Links, tickets: TicketBook) -> None:
        self._identity = identity
        self._links = links
        self._tickets = tickets

    def request(self, ticket: Ticket, leaf: bytes, addresses: tuple[str, ...]) -> Introduce:
        """Return the accepting device's request, for the server that showed `leaf` (DER)."""
        identity = self._identity
        card = msgspec.msgpack.encode(
            Card(ticket.id, identity.name, addresses, to_der(identity.certificate), to_der(identity.ca))
        )
        return Introduce(card, proof(ticket.key, leaf, card), identity.sign(_DOMAIN + leaf + card))

    def admit(self, asked: Introduce, leaf: bytes, addresses: tuple[str, ...]) -> tuple[Contact, Introduced]:
        """Make the accepting device a contact, if it has the ticket's secret and the key of its certificate.

        Raises
        ------
        Refused, ProtocolError
            It has not, or the request cannot be read.
        """
        try:
            card = msgspec.msgpack.decode(asked.card, type=Card)
        except (ValueError, RecursionError) as exc:
            raise ProtocolError(f"The introduction cannot be read ({exc}).") from exc
        self._tickets.check(card.ticket, leaf, asked.card, asked.proof, "introduce")
        node = self._checked(card.certificate, card.ca)
        if not verifies(public_key_of(node), asked.signature, _DOMAIN + leaf + asked.card):
            raise Refused("The introduction is not signed by the key of its certificate.")
        contact = self._identity.contacts.add(Contact(node, check_name(card.name), card.ca, self._identity.now()))
        self._tickets.burn(card.ticket, contact.name)
        self._links.contact_added(contact, card.addresses)
        mine = self._identity
        return contact, Introduced(mine.name, to_der(mine.ca), addresses)

    def accept(self, leaf: bytes, told: Introduced) -> Contact:
        """Make the introducing device, which showed `leaf` (DER), a contact."""
        node = self._checked(leaf, told.ca)
        contact = self._identity.contacts.add(Contact(node, check_name(told.name), told.ca, self._identity.now()))
        self._links.contact_added(contact, told.addresses)
        return contact

    def _checked(self, certificate: bytes, ca: bytes) -> str:
        """Return the node id of a certificate that is valid and of another swarm."""
        loaded = load(certificate)
        check_issued(loaded, read_ca(ca), self._identity.now())
        node = certificate_id(loaded)
        if node == self._identity.id:
            raise UsageError("This is the device itself.")
        if self._identity.roster.member(node) is not None:
            raise Refused("The two devices are members of one swarm already: they need no introduction.")
        return node
