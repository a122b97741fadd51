"""Devices of other owners."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ainet.api.limits import Text
from ainet.api.swarm import Invitation, InviteRequest, Lan
from ainet.api.verb import LONG, Nothing, Option, Verb


@dataclass(frozen=True)
class ContactState:
    """Another owner's device: since when (Unix seconds) it is a contact, and whether it is linked now."""

    id: str
    name: str
    added: float
    connected: bool


@dataclass(frozen=True)
class AcceptRequest:
    """The ticket of an introduction."""

    ticket: Annotated[Text, Option("what `ainet introduce` printed there", metavar="TICKET")]
    lan: Lan = field(default=False, kw_only=True)


@dataclass(frozen=True)
class ForgetRequest:
    """Which contact to forget."""

    name: Annotated[Text, Option("name or node id of the contact", metavar="NAME")]


introduce = Verb(
    "introduce", "make a ticket for a device of another owner", "POST", "introductions", InviteRequest, Invitation
)
accept = Verb(
    "accept", "become contacts with the device of a ticket", "POST", "contacts", AcceptRequest, ContactState, LONG
)
contacts = Verb(
    "contacts", "list the contacts: devices of other owners", "GET", "contacts", Nothing, list[ContactState]
)
forget = Verb("forget", "forget a contact", "DELETE", "contacts/{name}", ForgetRequest, ContactState)
