"""The owner's say in who belongs to the swarm, and who is a contact."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from ainet.api import contacts, key, swarm
from ainet.api.contacts import ContactState
from ainet.api.key import ExportedKey, KeyHolder
from ainet.api.swarm import Connected, Invitation, Joined, MemberState, Removed
from ainet.daemon.options import keep_options
from ainet.errors import UsageError
from ainet.links.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from ainet.api.answers import Answers
    from ainet.identity.contacts import Contact
    from ainet.links.links import Links
    from ainet.pairing.pairing import Pairing


class Membership:
    """Invites, joins, removes, introduces and forgets.

    Parameters
    ----------
    links, pairing
        To others, and how they become members and contacts.
    leave
        Ends what must not follow this device into another swarm.
    data_dir
        The folder in which options of the owner are kept.
    answers
        The registry of answers to the owner's verbs.
    """

    def __init__(
        self,
        *,
        links: Links,
        pairing: Pairing,
        leave: Callable[[], Awaitable[None]],
        data_dir: Path,
        answers: Answers,
    ) -> None:
        self._links, self._identity, self._pairing = links, links.identity, pairing
        self._leave = leave
        self._data_dir = data_dir
        answers.add(swarm.members, self.members)
        answers.add(swarm.connect, self.connect)
        answers.add(swarm.invite, self.invite)
        answers.add(swarm.join, self.join)
        answers.add(swarm.remove, self.remove)
        answers.add(contacts.introduce, self.introduce)
        answers.add(contacts.accept, self.accept)
        answers.add(contacts.contacts, self.contacts)
        answers.add(contacts.forget, self.forget)
        answers.add(key.export_key, self.export_key)
        answers.add(key.import_key, self.import_key)

    async def members(self) -> list[MemberState]:
        """Return the members of the swarm, this node included."""
        return self._links.members()

    async def connect(self, address: str) -> Connected:
        """Connect to the member at `address` and remember it."""
        link = await self._links.connect_address(address)
        return Connected(link.peer_id, link.peer_name, link.path)

    async def invite(self, listen: str | None = None, minutes: float = 10.0, *, lan: bool = False) -> Invitation:
        """Return a new ticket for a further device of the owner."""
        if lan:
            await self._open_lan()
        return await self._pairing.invite(listen, minutes)

    async def join(self, ticket: str, name: str | None = None, *, lan: bool = False) -> Joined:
        """Become a member of the swarm that the ticket is for."""
        if lan:
            await self._open_lan()
        await self._leave()
        joined = await self._pairing.join(ticket, name)
        return Joined(joined.swarm, self._identity.name, joined.warning, self._links.members())

    async def remove(self, name: str) -> Removed:
        """Remove a member from the swarm; every connection to it is cut at once."""
        if name in (self._identity.name, self._identity.id):
            raise UsageError("A device cannot remove itself. Remove it from the device that holds the swarm's key.")
        return msgspec.convert(self._links.trust.remove(name), Removed, from_attributes=True)

    async def introduce(self, listen: str | None = None, minutes: float = 10.0, *, lan: bool = False) -> Invitation:
        """Return a new ticket with which a device of another owner becomes a contact."""
        if lan:
            await self._open_lan()
        return await self._pairing.invite(listen, minutes, "introduce")

    async def accept(self, ticket: str, *, lan: bool = False) -> ContactState:
        """Become contacts with the device that gave out the ticket."""
        if lan:
            await self._open_lan()
        return self._contact(await self._pairing.accept(ticket))

    async def contacts(self) -> list[ContactState]:
        """Return the devices of other owners that were introduced."""
        return [self._contact(one) for one in self._identity.contacts.all()]

    async def forget(self, name: str) -> ContactState:
        """Forget a contact; every connection to it is cut at once."""
        return self._contact(self._links.trust.forget(name))

    async def export_key(self, passphrase: str) -> ExportedKey:
        """Return the swarm's key, encrypted."""
        return ExportedKey(await self._pairing.export_key(passphrase))

    async def import_key(self, key: str, passphrase: str) -> KeyHolder:
        """Take over the swarm's key, so that this device may invite, renew and remove as well."""
        await self._pairing.import_key(key, passphrase)
        return KeyHolder(self._identity.swarm, self._identity.holds_ca)

    async def _open_lan(self) -> None:
        """Accept members from the local networks and look for them there, now and at each start."""
        await self._links.open_lan()
        await asyncio.to_thread(keep_options, self._data_dir, {"lan": True})

    def _contact(self, contact: Contact) -> ContactState:
        is_linked = self._links.open_link(contact.id, Standing.CONTACT) is not None
        return ContactState(contact.id, contact.name, contact.added, is_linked)
