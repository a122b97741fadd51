"""The devices of the owner, and what they agree on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ainet.cli import tables
from ainet.cli.command import Command, Options, find_node, report
from ainet.cli.parser import add_lan, number, only_json, ticket
from ainet.errors import UsageError

if TYPE_CHECKING:
    import argparse


def ticket_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add where the ticket is valid, and how long."""
    parser.add_argument("--listen", metavar="ADDR", help="where to wait for the other device (default: 127.0.0.1)")
    add_lan(parser)
    parser.add_argument("--minutes", metavar="N", type=number, default=10.0, help="how long (default: 10)")
    only_json(parser, kernel)


def _join_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the ticket and a name."""
    parser.add_argument("ticket", metavar="TICKET", type=ticket, help="what `ainet invite` printed on the other device")
    parser.add_argument("--name", help="name of this device in the swarm")
    add_lan(parser)
    only_json(parser, kernel)


def _remove_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the member."""
    parser.add_argument("name", metavar="NAME", help="name or node id of the member")
    only_json(parser, kernel)


def _settings_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the key and its value."""
    parser.description = "Show the settings that all members of the swarm share, or change one for all of them."
    parser.add_argument("key", metavar="KEY", nargs="?", help="model: the model that is used when none is named")
    parser.add_argument("value", metavar="VALUE", nargs="?", help="its new value")
    parser.add_argument("--unset", action="store_true", help="take the setting back")
    only_json(parser, kernel)


def _connect_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the address."""
    parser.description = "Connect to a member at an address that this node does not know yet, and remember it."
    parser.add_argument("address", metavar="ADDRESS", help="host:port, or the https:// address of a Jupyter server")
    only_json(parser, kernel)


def _members(options: Options) -> int:
    with find_node(options) as node:
        report(options, node.members(), tables.members)
    return 0


def _peers(options: Options) -> int:
    with find_node(options) as node:
        report(options, node.peers(), tables.peers)
    return 0


def _connect(options: Options) -> int:
    with find_node(options) as node:
        words = "Connected to {name} ({path}).".format_map
        report(options, node.connect(options.address), words)
    return 0


def _invite(options: Options) -> int:
    def show(invited: dict[str, Any]) -> str:
        warning = f"\n{invited['warning']}" if invited["warning"] else ""
        return (
            f"On the other device, within {options.minutes:g} minutes:\n\n    ainet join {invited['ticket']}\n\n"
            f"It connects to {invited['address']}. The ticket works once; whoever has it can join.{warning}"
        )

    with find_node(options) as node:
        report(options, node.invite(options.listen, options.minutes, lan=options.lan), show)
    return 0


def _join(options: Options) -> int:
    def show(joined: dict[str, Any]) -> str:
        names = ", ".join(member["name"] for member in joined["members"])
        warning = f"\n{joined['warning']}" if joined["warning"] else ""
        return f"This device, {joined['name']}, is a member now. The members: {names}.{warning}"

    with find_node(options) as node:
        report(options, node.join(options.ticket, options.name, lan=options.lan), show)
    return 0


def _remove(options: Options) -> int:
    def show(removed: dict[str, Any]) -> str:
        key = " It keeps its copy of the swarm's key: keep that device safe, or found a new swarm."
        return f"{removed['name']} is no member any more.{key if removed['holds_ca'] else ''}"

    with find_node(options) as node:
        report(options, node.remove(options.name), show)
    return 0


def _settings(options: Options) -> int:
    if options.key and not options.unset and options.value is None:
        raise UsageError(f"Set {options.key} to what? Write a value behind it, or --unset.")
    with find_node(options) as node:
        found = node.set_setting(options.key, options.value) if options.key else node.settings()
    report(options, found, tables.settings)
    return 0


COMMANDS = (
    Command("members", "list the swarm's members", only_json, _members),
    Command("peers", "show who is there, how each is reached, and what it has", only_json, _peers),
    Command("connect", "connect to a member at an address", _connect_options, _connect),
    Command("invite", "make a ticket for a further device", ticket_options, _invite),
    Command("join", "join the swarm of a ticket", _join_options, _join),
    Command("remove", "remove a member from the swarm", _remove_options, _remove),
    Command("settings", "show or change what all members share", _settings_options, _settings),
)
