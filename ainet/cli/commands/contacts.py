"""Devices of other owners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ainet.cli import tables
from ainet.cli.command import Command, Options, find_node, report
from ainet.cli.commands.swarm import ticket_options
from ainet.cli.parser import add_lan, only_json, ticket

if TYPE_CHECKING:
    import argparse


def _accept_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the ticket."""
    parser.description = "Become contacts with a device of another owner: each pins the other's key."
    parser.add_argument("ticket", metavar="TICKET", type=ticket, help="what `ainet introduce` printed there")
    add_lan(parser)
    only_json(parser, kernel)


def _forget_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the contact."""
    parser.add_argument("name", metavar="NAME", help="name or node id of the contact")
    only_json(parser, kernel)


def _introduce(options: Options) -> int:
    def show(invited: dict[str, Any]) -> str:
        return (
            f"On the other device, within {options.minutes:g} minutes:\n\n    ainet accept {invited['ticket']}\n\n"
            f"It connects to {invited['address']}. The ticket works once. A contact gets only what is shared with it."
        )

    with find_node(options) as node:
        report(options, node.introduce(options.listen, options.minutes, lan=options.lan), show)
    return 0


def _accept(options: Options) -> int:
    with find_node(options) as node:
        words = "{name} is a contact now. It gets only what is shared with it.".format_map
        report(options, node.accept(options.ticket, lan=options.lan), words)
    return 0


def _contacts(options: Options) -> int:
    with find_node(options) as node:
        report(options, node.contacts(), tables.contacts)
    return 0


def _forget(options: Options) -> int:
    with find_node(options) as node:
        report(options, node.forget(options.name), "{name} is forgotten.".format_map)
    return 0


COMMANDS = (
    Command("introduce", "make a ticket for a device of another owner", ticket_options, _introduce),
    Command("accept", "become contacts with the device of a ticket", _accept_options, _accept),
    Command("contacts", "list the contacts: devices of other owners", only_json, _contacts),
    Command("forget", "forget a contact", _forget_options, _forget),
)
