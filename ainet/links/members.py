"""The members of the swarm, as this node sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ainet.api.swarm import MemberState
from ainet.links.standing import Standing
from ainet.units import DAY

if TYPE_CHECKING:
    from ainet.links.link_table import LinkTable


def member_states(table: LinkTable, addresses: tuple[str, ...]) -> list[MemberState]:
    """Return all members of the swarm, this node first; a node that was removed sees only itself."""
    identity, now = table.identity, table.identity.now()
    me = MemberState(
        id=identity.id,
        name=identity.name,
        addresses=list(addresses),
        connected=True,
        last_seen=now,
        certificate_days=identity.days_left,
        is_self=True,
        holds_ca=identity.holds_ca,
    )
    others = [
        MemberState(
            id=member.id,
            name=member.name,
            addresses=table.known_addresses(member.id),
            connected=(connected := table.open_link(member.id, Standing.MEMBER) is not None),
            last_seen=now if connected else table.book.last_seen(member.id),
            certificate_days=(member.expires - now) / DAY,
            is_self=False,
            holds_ca=member.holds_ca,
        )
        for member in identity.roster.members
        if member.id != identity.id and not identity.removed
    ]
    return [me, *sorted(others, key=lambda state: state.name)]
