"""The devices of the owner, and what they agree on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ainet.api import swarm
from ainet.cli.command import Command, find_node, report, verb_command
from ainet.cli.parser import number, only_json, ticket
from ainet.cli.tables import ago, table
from ainet.client.answer import layer_range
from ainet.errors import UsageError
from ainet.units import show_bytes

if TYPE_CHECKING:
    import argparse

    from ainet.api.swarm import Invitation, Joined, MemberState, Peer, Removed
    from ainet.cli.command import Options


def member_state(member: MemberState) -> str:
    """Return whether a member can be reached, in words."""
    if member.is_self:
        return "this device"
    return "connected" if member.connected else "unreachable"


def _members(found: list[MemberState], _: Options) -> str:
    rows = [
        (one.name, member_state(one), ", ".join(one.addresses), round(one.certificate_days), one.id) for one in found
    ]
    return table(("member", "state", "address", "certificate days", "node id"), rows)


def _peers(found: list[Peer], _: Options) -> str:
    if not found:
        return "Nobody else is known. `ainet invite` makes a ticket for a further device."
    rows = [
        (
            peer.name,
            peer.kind,
            _reached(peer),
            None if peer.latency_s is None else f"{1000 * peer.latency_s:.3g} ms",
            None if peer.bandwidth is None else f"{show_bytes(peer.bandwidth)}/s",
            _has(peer),
            ", ".join(peer.offers or ()) or None,
            ago(peer.last_seen),
        )
        for peer in found
    ]
    return table(("peer", "kind", "reached", "round trip", "bandwidth", "has", "offers", "last seen"), rows)


def _reached(peer: Peer) -> str | None:
    words = {"direct": f"direct, {peer.path}", "relayed": peer.path, "no": peer.note or "unreachable"}
    return words[peer.reached]


def _has(peer: Peer) -> str | None:
    device, n_models = peer.device, len(peer.models or [])
    words = [f"{show_bytes(device.memory)} memory, {device.threads} threads"] if device else []
    if n_models:
        words.append(f"{n_models} models")
    words += [f"{one.model} {layer_range(one.first_layer, one.last_layer)}" for one in peer.stages or []]
    return ", ".join(words) or None


def _invited(invited: Invitation, options: Options) -> str:
    warning = f"\n{invited.warning}" if invited.warning else ""
    return (
        f"On the other device, within {options.minutes:g} minutes:\n\n    ainet join {invited.ticket}\n\n"
        f"It connects to {invited.address}. The ticket works once; whoever has it can join.{warning}"
    )


def _joined(joined: Joined, _: Options) -> str:
    names = ", ".join(member.name for member in joined.members)
    warning = f"\n{joined.warning}" if joined.warning else ""
    return f"This device, {joined.name}, is a member now. The members: {names}.{warning}"


def _removed(removed: Removed, _: Options) -> str:
    key = " It keeps its copy of the swarm's key: keep that device safe, or found a new swarm."
    return f"{removed.name} is no member any more.{key if removed.holds_ca else ''}"


def _settings_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the key and its value."""
    parser.description = "Show the settings that all members of the swarm share, or change one for all of them."
    parser.add_argument("key", metavar="KEY", nargs="?", help="model: the model that is used when none is named")
    parser.add_argument("value", metavar="VALUE", nargs="?", help="its new value")
    parser.add_argument("--unset", action="store_true", help="take the setting back")
    only_json(parser, kernel)


def _settings(options: Options) -> int:
    if options.key and not options.unset and options.value is None:
        raise UsageError(f"Set {options.key} to what? Write a value behind it, or --unset.")
    with find_node(options) as node:
        found = node.call(swarm.set_setting, options.key, options.value) if options.key else node.call(swarm.settings)
    report(options, found, _shared_settings)
    return 0


def _shared_settings(found: dict[str, str]) -> str:
    return table(("setting", "value"), found.items()) if found else "Nothing is set for the whole swarm."


COMMANDS: tuple[Command, ...] = (
    verb_command(swarm.members, _members),
    verb_command(swarm.peers, _peers),
    verb_command(
        swarm.connect,
        lambda member, _: f"Connected to {member.name} ({member.path}).",
        description="Connect to a member at an address that this node does not know yet, and remember it.",
    ),
    verb_command(swarm.invite, _invited, minutes=number),
    verb_command(swarm.join, _joined, ticket=ticket),
    verb_command(swarm.remove, _removed),
    Command("settings", "show or change what all members share", _settings_options, _settings),
)
