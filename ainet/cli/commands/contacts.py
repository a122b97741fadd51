"""Devices of other owners."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ainet.api import contacts
from ainet.cli.command import Command, verb_command
from ainet.cli.parser import number, ticket
from ainet.cli.tables import table

if TYPE_CHECKING:
    from ainet.api.contacts import ContactState
    from ainet.api.swarm import Invitation
    from ainet.cli.command import Options


def _introduced(invited: Invitation, options: Options) -> str:
    return (
        f"On the other device, within {options.minutes:g} minutes:\n\n    ainet accept {invited.ticket}\n\n"
        f"It connects to {invited.address}. The ticket works once. A contact gets only what is shared with it."
    )


def _contacts(found: list[ContactState], _: Options) -> str:
    if not found:
        return "There are no contacts. `ainet introduce` makes a ticket for a device of another owner."
    rows = [(one.name, "connected" if one.connected else "unreachable", one.id) for one in found]
    return table(("contact", "state", "node id"), rows)


COMMANDS: tuple[Command, ...] = (
    verb_command(contacts.introduce, _introduced, minutes=number),
    verb_command(
        contacts.accept,
        lambda contact, _: f"{contact.name} is a contact now. It gets only what is shared with it.",
        description="Become contacts with a device of another owner: each pins the other's key.",
        ticket=ticket,
    ),
    verb_command(contacts.contacts, _contacts),
    verb_command(contacts.forget, lambda contact, _: f"{contact.name} is forgotten."),
)
