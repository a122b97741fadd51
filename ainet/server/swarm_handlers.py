"""Handlers for the other devices: members, contacts, links, and what the swarm agrees on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec
from jupyter_server.auth.decorator import authorized
from tornado import web

from ainet.errors import UsageError
from ainet.links.frames import MAX_ADDRESS
from ainet.server.base import NodeHandler
from ainet.server.checks import MAX_KEY, check_text

if TYPE_CHECKING:
    from ainet.node.node import Node

MAX_MINUTES = 24 * 60


class Invitation(msgspec.Struct, forbid_unknown_fields=True):
    """Where to wait for the joining device (host or host:port), how long, and whether on the local networks."""

    listen: str | None = None
    minutes: float = 10.0
    lan: bool = False

    def __post_init__(self) -> None:
        check_text("listen", self.listen)
        if not 0 < self.minutes <= MAX_MINUTES:
            raise UsageError(
                f"minutes is {self.minutes:g}; a ticket is valid for more than 0 and at most {MAX_MINUTES} minutes."
            )


class InvitationsHandler(NodeHandler):
    """Tickets for further devices."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer with a new ticket."""

        async def invite(node: Node) -> dict[str, Any]:
            wanted = self.decode(Invitation)
            return await node.invite(wanted.listen, wanted.minutes, lan=wanted.lan)

        await self.answer(invite)


class Membership(msgspec.Struct, forbid_unknown_fields=True):
    """A ticket, and the name that this device wants to have in the swarm."""

    ticket: str
    name: str | None = None
    lan: bool = False

    def __post_init__(self) -> None:
        check_text("ticket", self.ticket)
        check_text("name", self.name)


class MembershipHandler(NodeHandler):
    """The place of this device in a swarm."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Join the swarm that a ticket is for."""

        async def join(node: Node) -> dict[str, Any]:
            wanted = self.decode(Membership)
            return await node.join(wanted.ticket, wanted.name, lan=wanted.lan)

        await self.answer(join)


class MembersHandler(NodeHandler):
    """The members of the swarm."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with `Node.members`."""
        await self.answer(lambda node: node.members())


class IntroductionsHandler(NodeHandler):
    """Tickets for devices of other owners."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer with a new ticket."""

        async def introduce(node: Node) -> dict[str, Any]:
            wanted = self.decode(Invitation)
            return await node.introduce(wanted.listen, wanted.minutes, lan=wanted.lan)

        await self.answer(introduce)


class Acceptance(msgspec.Struct, forbid_unknown_fields=True):
    """The ticket of an introduction."""

    ticket: str
    lan: bool = False

    def __post_init__(self) -> None:
        check_text("ticket", self.ticket)


class ContactsHandler(NodeHandler):
    """Devices of other owners."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with `Node.contacts`."""
        await self.answer(lambda node: node.contacts())

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Become contacts with the device that gave out a ticket."""

        async def accept(node: Node) -> dict[str, Any]:
            wanted = self.decode(Acceptance)
            return await node.accept(wanted.ticket, lan=wanted.lan)

        await self.answer(accept)


class ContactHandler(NodeHandler):
    """One of them."""

    @web.authenticated
    @authorized
    async def delete(self, name: str) -> None:
        """Forget the contact."""
        await self.answer(lambda node: node.forget(unquote(name)))


class Setting(msgspec.Struct, forbid_unknown_fields=True):
    """A setting for all members; None takes it back."""

    key: str
    value: str | None = None

    def __post_init__(self) -> None:
        check_text("key", self.key)


class SettingsHandler(NodeHandler):
    """The settings that all members share."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with all of them."""
        await self.answer(lambda node: node.swarm_settings())

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Change one."""

        async def change(node: Node) -> dict[str, str]:
            wanted = self.decode(Setting)
            return await node.swarm_settings(wanted.key, wanted.value)

        await self.answer(change)


class PeersHandler(NodeHandler):
    """The other devices."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with `Node.peers`."""
        await self.answer(lambda node: node.peers())


class LinkRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Where a member listens."""

    address: str

    def __post_init__(self) -> None:
        check_text("address", self.address, MAX_ADDRESS)


class LinksHandler(NodeHandler):
    """The links to members."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Connect to the member at an address."""
        await self.answer(lambda node: node.connect(self.decode(LinkRequest).address))


class MemberHandler(NodeHandler):
    """One member."""

    @web.authenticated
    @authorized
    async def delete(self, name: str) -> None:
        """Remove the member from the swarm."""
        await self.answer(lambda node: node.remove(unquote(name)))


class KeyExport(msgspec.Struct, forbid_unknown_fields=True):
    """What the swarm's key is encrypted with."""

    passphrase: str

    def __post_init__(self) -> None:
        check_text("passphrase", self.passphrase)


class KeyExportHandler(NodeHandler):
    """The swarm's key, for a second device that may issue certificates."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer with the encrypted key."""

        async def export(node: Node) -> dict[str, str]:
            wanted = self.decode(KeyExport)
            return {"key": await node.export_key(wanted.passphrase)}

        await self.answer(export)


class KeyImport(msgspec.Struct, forbid_unknown_fields=True):
    """An exported key and what it is encrypted with."""

    key: str
    passphrase: str

    def __post_init__(self) -> None:
        check_text("key", self.key, MAX_KEY)
        check_text("passphrase", self.passphrase)


class KeyImportHandler(NodeHandler):
    """The swarm's key, from another device."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Take over the key."""

        async def take(node: Node) -> dict[str, Any]:
            wanted = self.decode(KeyImport)
            return await node.import_key(wanted.key, wanted.passphrase)

        await self.answer(take)
