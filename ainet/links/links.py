"""Links: this node's connections to the other members of its swarm, and to contacts."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from ainet.errors import NotFound, PeerUnreachable, Refused, UsageError
from ainet.identity.credentials import Credentials, client_context, server_context
from ainet.links.address_book import AddressBook
from ainet.links.dialler import Dialler
from ainet.links.discovery import Announcement, Discovery, Sighting, swarm_hash
from ainet.links.door import Door
from ainet.links.forwarders import Forwarders
from ainet.links.frames import Hint
from ainet.links.home import Home
from ainet.links.link_table import LinkTable
from ainet.links.members import member_states
from ainet.links.request import Payload, Probe, Request
from ainet.links.standing import Standing
from ainet.links.strangers import Strangers
from ainet.links.trust import Trust
from ainet.links.upkeep import Upkeep
from ainet.timing import TIMING, Timing
from ainet.wire.address import can_be_dialled, is_loopback, split_address, wildcard

if TYPE_CHECKING:
    import logging
    import ssl
    from collections.abc import Callable
    from types import TracebackType

    from ainet.api.swarm import MemberState
    from ainet.config import AinetConfig
    from ainet.identity.contacts import Contact
    from ainet.identity.identity import Identity
    from ainet.identity.roster import Member
    from ainet.links.link import Handler, PeerLink
    from ainet.wire.carrier import Carrier


class Links:
    """Accepts members and contacts, dials them, and keeps one link to each that can be reached.

    Links exist between members with valid certificates, and with contacts whose key was pinned. A newer roster that a
    member shows, signed by the CA, is applied at once, passed on, and cuts the links of everybody whom it removes.
    """

    def __init__(
        self, identity: Identity, config: AinetConfig, log: logging.Logger, *, timing: Timing = TIMING
    ) -> None:
        self.identity = identity
        data_dir = config.make_data_dir()
        self.book = AddressBook(data_dir / "network.json", log)
        #: The swarm to which the data here belong.
        self.home = Home(identity, data_dir / "swarm", log)
        self._config = config
        self._log = log
        self._contexts: tuple[Credentials, ssl.SSLContext, ssl.SSLContext] | None = None
        self._stopped = False
        #: The links that are open.
        self.table = LinkTable(
            identity,
            self.book,
            config,
            log,
            addresses=self.addresses,
            sightings=lambda node_id: self.discovery.addresses(node_id),  # noqa: PLW0108 - it is made below
            accept_relayed=self._accept_relayed,
            apply_roster=lambda signed: self.trust.apply(signed),  # noqa: PLW0108
            timing=timing,
        )
        #: The devices that may have one.
        self.trust = Trust(self.table, log)
        #: Byte streams to members that outlive links.
        self.channels = self.table.channels
        #: Devices of which nothing is known.
        self.strangers = Strangers(
            self.table,
            identity.credentials,
            lambda node_id: self.discovery.addresses(node_id),  # noqa: PLW0108 - it is made below
            log,
            timing=timing,
        )
        #: The way in for others.
        self.door = Door(self.table, self.strangers, lambda: self._tls()[0], config.peer_url, log)
        #: Ports of this device that lead to those of members.
        self.forwarders = Forwarders(self.table, self.connect, log)
        #: The nodes on the local network; nobody is looked for before the owner wants it.
        self.discovery = Discovery(
            self._announcement, self._sighted, lambda node_id: self.open_link(node_id) is not None, log
        )
        self._dialler = Dialler(self.table, lambda: self._tls()[1], log)
        self.upkeep = Upkeep(self.table, self.trust, self.dial_anew, self._network_changed, log)
        self.handle(Probe, self._answer_probe)

    def handle(self, kind: type[Request], handler: Handler) -> None:
        """Answer requests of type `kind` with `handler`; see `LinkTable.handle`."""
        self.table.handle(kind, handler)

    def on_revoked(self, callback: Callable[[str], object]) -> None:
        """Call `callback` with the id of every member that is removed and contact that is forgotten from now on."""
        self.trust.revoked.connect(callback)

    def on_linked(self, callback: Callable[[PeerLink], object], standing: Standing = Standing.MEMBER) -> None:
        """Call `callback` with every link to a device of this standing that begins from now on."""
        self.table.linked[standing].connect(callback)

    async def start(self) -> None:
        """Listen for members, and look after the links to them.

        Raises
        ------
        UsageError
            The address that the configuration names cannot be listened on.
        """
        self.home.check()
        host, port = split_address(self._config.listen, 0)
        fixed = port or self._config.peer_port
        host = wildcard() if self._config.lan and is_loopback(host) else host
        await self._listen(host, fixed or self.book.port, fixed=bool(fixed))
        if self.identity.problem:
            self._log.warning("%s", self.identity.problem)
        if self._config.lan:
            await self.discovery.start()
        self.upkeep.start()

    async def open_lan(self) -> None:
        """Accept links on every network of this device from now on, and look for others there.

        Raises
        ------
        UsageError
            The port cannot be listened on.
        """
        if is_loopback(self.door.host):
            await self._listen(wildcard(), self.door.port, fixed=False)
            self.upkeep.wake()
        if not self.discovery.active:
            await self.discovery.start()

    async def stop(self) -> None:
        """Say goodbye to everybody, and stop listening."""
        self._stopped = True
        await self.upkeep.stop()
        await self.discovery.stop()
        await self.door.stop()
        await self.strangers.stop()
        await self._dialler.stop()
        await self.forwarders.stop()
        await self.channels.stop()
        self.strangers.close_all()
        self.table.close_all(PeerUnreachable(f"{self.identity.name} was stopped."))
        await self.table.wait_closed()
        self.book.save()
        await self.book.flush()

    async def __aenter__(self) -> Links:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def address(self) -> str:
        """The address on which this node accepts members: "host:port"."""
        return self.door.address

    def addresses(self, near: str = "") -> tuple[str, ...]:
        """Return the addresses on which this node accepts members: "host:port", or a Jupyter server's URL.

        Parameters
        ----------
        near
            The address of this node on the network of whoever asks; it comes first.
        """
        return self.door.addresses(near)

    @property
    def listen_host(self) -> str:
        """The address on which this node listens, as the configuration names it."""
        return self.door.host

    def links(self) -> list[PeerLink]:
        """Return the links that are open, of all members; there may be several of one."""
        return self.table.links()

    def open_link(self, node_id: str, standing: Standing | None = None) -> PeerLink | None:
        """Return an open link to the device, if there is one; see `LinkTable.open_link`."""
        return self.table.open_link(node_id, standing)

    async def admit_strangers(self, *, is_admitted: bool) -> None:
        """Let devices of which nothing is known come from now on, and tell the local network of it; or no more."""
        if self.strangers.is_admitted != is_admitted:
            self.strangers.is_admitted = is_admitted
            if self.discovery.active:
                await self.discovery.update()

    def strangers_nearby(self) -> list[str]:
        """Return the ids of devices on the local network that say that they deal with strangers."""
        known = self.table.known_ids() | {self.identity.id}
        return [one.id for one in self.discovery.sightings() if one.is_open and one.id not in known]

    def known_addresses(self, node_id: str) -> list[str]:
        """Return where the device may be reached, the best address first."""
        return self.table.known_addresses(node_id)

    def members(self) -> list[MemberState]:
        """Return all members of the swarm, this node first; a node that was removed sees only itself."""
        return member_states(self.table, self.addresses())

    async def connect(self, node_id: str, standing: Standing = Standing.MEMBER) -> PeerLink:
        """Return a link to the device: the one that is open, whoever opened it, or a new one.

        Parameters
        ----------
        standing
            The lowest that will do.

        Raises
        ------
        NotFound
            No member, or contact if that will do, has this id.
        PeerUnreachable
            It does not answer at any address that is known.
        Refused
            One of the two devices may not work with the other; the message says why.
        """
        if node_id == self.identity.id:
            raise UsageError("A node needs no link to itself.")
        if self._stopped:
            raise PeerUnreachable("This node is stopping.")
        if self.identity.problem:
            raise Refused(self.identity.problem)
        if link := self.open_link(node_id, Standing.MEMBER):
            return link
        known: Member | Contact | None = self.identity.roster.member(node_id)
        if known is None and Standing.CONTACT.permits(standing):
            known = self.identity.contacts.get(node_id)
            if known is not None and (link := self.open_link(node_id, Standing.CONTACT)):
                return link
        if known is None and Standing.STRANGER.permits(standing):
            return await self.strangers.connect(node_id)
        if known is None:
            removed = self.identity.roster.removed(node_id)
            raise NotFound(
                f"{removed.name} was removed from the swarm." if removed else f"No member has the id {node_id}."
            )
        return await asyncio.shield(self._dialler.start(node_id, known.name))

    async def connect_address(self, address: str) -> PeerLink:
        """Return a link to whichever member listens at `address` ("host:port" or a Jupyter server's URL); remember it.

        Raises
        ------
        PeerUnreachable, Refused
            Nobody answers there; or somebody who is no member.
        UsageError
            The text is no address, or this node's own.
        """
        if not can_be_dialled(address):
            raise UsageError(
                f"{address[:140]!r} is no address. Write host:port, or the https:// address of a Jupyter server."
            )
        if self.identity.problem:
            raise Refused(self.identity.problem)
        link = await self._dialler.reach(address, f"the device at {address}")
        self.table.learn((Hint(link.peer_id, address, self.identity.now() + 1.0),))
        return link

    def contact_added(self, contact: Contact, addresses: tuple[str, ...]) -> None:
        """Look for a contact that was introduced: it listens at `addresses`."""
        now = self.identity.now()
        self.strangers.forget(contact.id)
        self.table.learn(tuple(Hint(contact.id, address, now) for address in addresses))
        self.upkeep.reset(contact.id)

    def swarm_changed(self, hints: tuple[Hint, ...], left: str, *, shared: bool) -> None:
        """Leave all links behind: the identity has joined a swarm, whose members listen where `hints` say.

        Parameters
        ----------
        left
            Id of the swarm before; it may be the same.
        shared
            Whether it had other members.
        """
        self.strangers.close_all()
        self.table.close_all(PeerUnreachable(f"{self.identity.name} joined another swarm."))
        if left != self.identity.swarm:
            self.home.leave(left if shared else None)
        self.book.keep_only({contact.id for contact in self.identity.contacts.all()})
        self.table.learn(hints)
        self.book.save()
        self.upkeep.wake()

    async def dial_anew(self, node_id: str) -> None:
        """Try to reach the device on the best path, also when there is a link already; raises what `connect` raises."""
        known = self.identity.roster.member(node_id) or self.identity.contacts.get(node_id)
        if known is not None and not self._stopped:
            await asyncio.shield(self._dialler.start(node_id, known.name))

    async def _network_changed(self) -> None:
        """Act on new addresses of this device: tell the network, and dial everybody anew."""
        self._log.info("The addresses of this device are now %s.", ", ".join(self.addresses()) or "none")
        if self.discovery.active:
            await self.discovery.update()
        for peer in {link.peer_id: link.peer_name for link in self.links()}.items():
            self._dialler.start(*peer)
        self.upkeep.reset()

    def _accept_relayed(self, carrier: Carrier, relay: PeerLink, origin: str) -> None:
        member = self.identity.roster.member(origin)
        name = member.name if member else origin[:8]
        self._log.info("%s wants to be linked through %s.", name, relay.peer_name)
        self.door.accept(carrier, f"through {relay.peer_name}", relay=relay.peer_id)

    async def _listen(self, host: str, port: int, *, fixed: bool) -> None:
        await self.door.open(host, port, fixed=fixed)
        self.book.port = self.door.port
        self.book.save()

    def _announcement(self) -> Announcement:
        hosts = tuple(self.door.hosts())
        return Announcement(
            self.identity.id,
            swarm_hash(self.identity.swarm),
            hosts,
            self.door.port,
            is_open=self.strangers.is_admitted,
        )

    def _sighted(self, sighting: Sighting) -> None:
        if sighting.id in self.table.known_ids():
            self.upkeep.reset(sighting.id)

    async def _answer_probe(self, _link: PeerLink, request: Probe) -> Payload:
        return Payload(os.urandom(request.size))  # random, as what is compressed on its way would seem fast

    def _tls(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        credentials = self.identity.link_credentials()
        if self._contexts is None or self._contexts[0] != credentials:
            self._contexts = (credentials, server_context(credentials), client_context(credentials))
        return self._contexts[1], self._contexts[2]
