"""Links: this node's connections to the other members of its swarm."""

from __future__ import annotations

import asyncio
import os
import uuid
from typing import TYPE_CHECKING

from ainet.errors import AinetError, NotFound, PeerUnreachable, Refused, UsageError
from ainet.identity.credentials import Credentials, client_context, server_context
from ainet.links.address_book import AddressBook
from ainet.links.channels import Channels
from ainet.links.dialler import Dialler
from ainet.links.discovery import Announcement, Discovery, Sighting, swarm_hash
from ainet.links.door import Door
from ainet.links.forwarders import Forwarders
from ainet.links.frames import Hint, RosterUpdate
from ainet.links.greeting import Greeting, check_peer, greet
from ainet.links.home import Home
from ainet.links.link import PeerLink
from ainet.links.members import MemberState, member_states
from ainet.links.request import Payload, Probe, RenewCertificate, Renewed, Request
from ainet.links.upkeep import Upkeep
from ainet.wire.address import can_be_dialled, is_loopback, split_address, wildcard

if TYPE_CHECKING:
    import logging
    import ssl
    from collections.abc import Callable
    from types import TracebackType

    from ainet.config import AinetConfig
    from ainet.identity.contacts import Contact
    from ainet.identity.identity import Identity
    from ainet.identity.roster import Revoked, SignedRoster
    from ainet.links.link import Handler
    from ainet.wire.carrier import Carrier
    from ainet.wire.stream import SecureStream

GREETING_TIMEOUT = 10.0  # seconds
MAX_LINKS = 4  # with one peer
PLAIN_WORD = b"This port speaks TLS 1.3 and is for members of an ainet swarm only.\n"


class Links:
    """Accepts members, dials them, and keeps one link to each that can be reached.

    Links exist between members with valid certificates only. A roster that a member shows, if newer and signed by the
    CA, is applied at once, passed on, and cuts the links of everybody whom it removes.
    """

    def __init__(self, identity: Identity, config: AinetConfig, log: logging.Logger) -> None:
        self.identity = identity
        data_dir = config.make_data_dir()
        self.book = AddressBook(data_dir / "network.json")
        #: Which swarm the data here belong to.
        self.home = Home(identity, data_dir / "swarm", log)
        self._config = config
        self._log = log
        self._instance = uuid.uuid4().hex
        self._handlers: dict[str, tuple[type[Request], Handler]] = {}
        self._open_handlers: dict[str, tuple[type[Request], Handler]] = {}  # those that contacts may use
        self._greetings: dict[PeerLink, Greeting] = {}
        self._dialler = Dialler(self, lambda: self._tls()[1], log)
        self._closing: set[asyncio.Task[None]] = set()
        self._revoked_callbacks: list[Callable[[str], object]] = []
        self._linked_callbacks: list[Callable[[PeerLink], object]] = []
        self._contact_callbacks: list[Callable[[PeerLink], object]] = []
        self._contexts: tuple[Credentials, ssl.SSLContext, ssl.SSLContext] | None = None
        self._stopped = False
        self._upkeep = Upkeep(self, log)
        #: Where others may connect.
        self.door = Door(self, lambda: self._tls()[0], config.peer_url, log)
        #: Byte streams to members that outlive links.
        self.channels = Channels(self.linked, self._accept_relayed, log)
        #: Ports of this device that lead to those of members.
        self.forwarders = Forwarders(self, log)
        #: Who is on the local network; nobody is looked for before the owner wants it.
        self.discovery = Discovery(
            self._announcement, self._sighted, lambda node_id: self.link_to(node_id) is not None, log
        )
        self.handle(RenewCertificate, self._renew)
        self.handle(Probe, self._answer_probe, contacts=True)

    def handle(self, kind: type[Request], handler: Handler, *, contacts: bool = False) -> None:
        """Answer requests of type `kind` with `handler`: those of members and, if `contacts`, of contacts, too.

        The handler is called with the link and the request. It is a coroutine function that returns the reply, or an
        async generator of progress that ends with the reply. It is cancelled when the asker cancels or the link closes.
        An `AinetError` that it raises is raised at the asker; of any other the asker learns only that there was one.

        Raises
        ------
        ValueError
            Another class of this name is answered already: the name is what travels.
        """
        if kind.__name__ in self._handlers:
            raise ValueError(f"There are two handlers for {kind.__name__}.")
        self._handlers[kind.__name__] = (kind, handler)
        if contacts:
            self._open_handlers[kind.__name__] = (kind, handler)

    def on_revoked(self, callback: Callable[[str], object]) -> None:
        """Call `callback` with the id of every member that is removed and contact that is forgotten from now on."""
        self._revoked_callbacks.append(callback)

    def on_linked(self, callback: Callable[[PeerLink], object]) -> None:
        """Call `callback` with every link that begins from now on."""
        self._linked_callbacks.append(callback)

    def on_contact_linked(self, callback: Callable[[PeerLink], object]) -> None:
        """Call `callback` with every link to a contact that begins from now on."""
        self._contact_callbacks.append(callback)

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
        self._upkeep.start()

    async def open_lan(self) -> None:
        """Accept links on every network of this device from now on, and look for others there.

        Raises
        ------
        UsageError
            The port cannot be listened on.
        """
        if is_loopback(self.door.host):
            await self._listen(wildcard(), self.door.port, fixed=False)
            self._upkeep.wake()
        if not self.discovery.active:
            await self.discovery.start()

    async def network_changed(self) -> None:
        """Act on new addresses of this device: tell the network, and dial everybody anew."""
        self._log.info("The addresses of this device are now %s.", ", ".join(self.addresses()) or "none")
        if self.discovery.active:
            await self.discovery.update()
        for peer in {link.peer_id: link.peer_name for link in self.links()}.items():
            self._dialler.start(*peer)
        self._upkeep.reset()

    async def stop(self) -> None:
        """Say goodbye to everybody, and stop listening."""
        self._stopped = True
        await self._upkeep.stop()
        await self.discovery.stop()
        await self.door.stop()
        await self._dialler.stop()
        await self.forwarders.stop()
        await self.channels.stop()
        self.close_all(PeerUnreachable(f"{self.identity.name} was stopped."))
        await asyncio.gather(*self._closing)
        self.book.save()

    async def __aenter__(self) -> Links:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def address(self) -> str:
        """Where this node accepts members: "host:port"."""
        return self.door.address

    def addresses(self, near: str = "") -> tuple[str, ...]:
        """Where this node accepts members: "host:port", or a Jupyter server's URL.

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
        return [link for link in self._greetings if not link.is_contact and not link.closed.is_set()]

    def contact_link(self, node_id: str) -> PeerLink | None:
        """Return an open link to the contact."""
        for link in reversed(self._greetings):
            if link.is_contact and link.peer_id == node_id and not link.closed.is_set():
                return link
        return None

    def link_to(self, node_id: str) -> PeerLink | None:
        """Return an open link to the member or contact."""
        return self.linked(node_id) or self.contact_link(node_id)

    def contact_added(self, contact: Contact, addresses: tuple[str, ...]) -> None:
        """Look for a contact that was introduced: it listens at `addresses`."""
        now = self.identity.now()
        self.learn(tuple(Hint(contact.id, address, now) for address in addresses))
        self._upkeep.reset(contact.id)

    def forget(self, name: str) -> Contact:
        """Forget the contact with this name or id, and cut its links; raises `NotFound`."""
        contact = self.identity.contacts.remove(name)
        self.book.keep_only(self._known_ids())
        for link in [link for link in self._greetings if link.is_contact and link.peer_id == contact.id]:
            link.close(Refused("This device is no contact there any more."))
        if self.identity.roster.member(contact.id) is None:
            self._trusted_no_more(contact.id)
        return contact

    def known_addresses(self, node_id: str) -> list[str]:
        """Return where the member may be reached, the best address first."""
        return list(dict.fromkeys([*self.discovery.addresses(node_id), *self.book.addresses(node_id)]))

    def linked(self, node_id: str) -> PeerLink | None:
        """Return an open link to the member, the newest: an older one may be about to be found dead."""
        return next((link for link in reversed(self.links()) if link.peer_id == node_id), None)

    def members(self) -> list[MemberState]:
        """Return all members of the swarm, this node first; a node that was removed sees only itself."""
        return member_states(self)

    async def connect(self, node_id: str) -> PeerLink:
        """Return a link to the member: the one that is open, whoever opened it, or a new one.

        Raises
        ------
        NotFound
            No member has this id.
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
        if link := self.linked(node_id):
            return link
        member = self.identity.roster.member(node_id)
        if member is None:
            removed = self.identity.roster.removed(node_id)
            raise NotFound(
                f"{removed.name} was removed from the swarm." if removed else f"No member has the id {node_id}."
            )
        return await asyncio.shield(self._dialler.start(node_id, member.name))

    async def reach(self, node_id: str) -> PeerLink:
        """Return a link to the member or contact; raises what `connect` raises."""
        if (link := self.contact_link(node_id)) is not None:
            return link
        contact = self.identity.contacts.get(node_id)
        if contact is None or self._stopped:
            return await self.connect(node_id)
        return await asyncio.shield(self._dialler.start(node_id, contact.name))

    async def dial_anew(self, node_id: str) -> None:
        """Try to reach the member on the best path, also when there is a link already; raises what `connect` raises."""
        known = self.identity.roster.member(node_id) or self.identity.contacts.get(node_id)
        if known is not None and not self._stopped:
            await asyncio.shield(self._dialler.start(node_id, known.name))

    async def connect_to(self, address: str) -> PeerLink:
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
        self.learn((Hint(link.peer_id, address, self.identity.now() + 1.0),))
        return link

    def remove(self, name: str) -> Revoked:
        """Remove the member with this name or id from the swarm: its links are cut, all members are told.

        Raises what `Identity.remove` raises.
        """
        before = self._revoked_ids()
        record = self.identity.remove(name)
        self.roster_changed(before)
        if record.holds_ca:
            self._log.warning(
                "%s holds the swarm's CA key, which a removal does not take away. If it is in foreign hands, begin a "
                "new swarm: delete the data directories' identity folders and pair again.",
                record.name,
            )
        return record

    def apply(self, signed: SignedRoster) -> None:
        """Take over a roster that another member showed, if it is newer; raises `Refused` when it is not the CA's."""
        before = self._revoked_ids()
        if self.identity.apply(signed):
            self.roster_changed(before)

    def roster_changed(self, revoked_before: set[str] | None = None) -> None:
        """Act on the identity's new roster: cut whom it removed since `revoked_before`, tell everybody else."""
        roster = self.identity.roster
        for contact in self.identity.contacts.all():
            if roster.member(contact.id) is not None:  # a member needs no introduction
                self.identity.contacts.remove(contact.id)
        self.book.keep_only(self._known_ids())
        update = self._update()
        for link, greeting in list(self._greetings.items()):
            if greeting.is_contact:
                continue
            link.send_roster(update)
            try:
                check_peer(self.identity, link.peer_id, greeting.certificate_serial)
            except Refused as exc:
                self._log.warning("The link to %s is cut: %s", link.peer_name, exc.message)
                link.close(exc)
        revoked = set() if revoked_before is None else self._revoked_ids() - revoked_before
        for node_id in revoked:
            record = roster.removed(node_id)
            self._log.warning("%s was removed from the swarm.", record.name if record else node_id)
            self.channels.cut(node_id, Refused("This device was removed from the swarm."))
            self._trusted_no_more(node_id)

    def _trusted_no_more(self, node_id: str) -> None:
        for callback in self._revoked_callbacks:
            try:
                callback(node_id)
            except Exception:
                self._log.exception("A callback failed when %s was removed.", node_id)

    def swarm_changed(self, hints: tuple[Hint, ...], left: str, *, shared: bool) -> None:
        """Leave all links behind: the identity has joined a swarm, whose members listen where `hints` say.

        Parameters
        ----------
        left
            Id of the swarm before; it may be the same.
        shared
            Whether it had other members.
        """
        self.close_all(PeerUnreachable(f"{self.identity.name} joined another swarm."))
        if left != self.identity.swarm:
            self.home.leave(left if shared else None)
        self.book.keep_only({contact.id for contact in self.identity.contacts.all()})
        self.learn(hints)
        self.book.save()
        self._upkeep.wake()

    def close_all(self, reason: AinetError) -> None:
        """Close every link, and tell the peers why."""
        for link in list(self._greetings):
            link.close(reason)

    def learn(self, hints: tuple[Hint, ...]) -> None:
        """Note where members listen."""
        now, known = self.identity.now(), self._known_ids()
        before = {hint.address for hint in self.book.hints()}
        for hint in hints:
            if hint.id in known and hint.id != self.identity.id:
                self.book.learn(hint, now)
        if before != {hint.address for hint in self.book.hints()}:
            self.book.save()

    def expired_links(self) -> list[PeerLink]:
        """Return the links whose peer's certificate has expired since, and was not renewed."""
        now, roster = self.identity.now(), self.identity.roster
        expired = []
        for link, greeting in self._greetings.items():
            member = roster.member(link.peer_id)  # None for a contact, whose new certificate comes with a new link
            if max(greeting.certificate_expires, member.expires if member else 0.0) < now:
                expired.append(link)
        return expired

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
        return Announcement(self.identity.id, swarm_hash(self.identity.swarm), hosts, self.door.port)

    def _sighted(self, sighting: Sighting) -> None:
        if sighting.id in self._known_ids():
            self._upkeep.reset(sighting.id)

    async def begin(
        self, stream: SecureStream, path: str, dialled: str | None = None, *, relay: str | None = None
    ) -> PeerLink:
        """Greet the other end of `stream` and return the link to it.

        Parameters
        ----------
        path
            How it was reached, or where it came from, in words.
        dialled
            The node that was meant; None on the accepting end, and for an address that anybody may have.
        relay
            The id of the member that passes everything on.

        Raises
        ------
        PeerUnreachable, Refused, ProtocolError
            There is no link; the other end knows why, too.
        """
        try:
            async with asyncio.timeout(GREETING_TIMEOUT):
                await stream.handshake()
                greeting = await greet(
                    stream,
                    self.identity,
                    addresses=self.addresses(stream.local_host),
                    instance=self._instance,
                    hints=self.book.hints(),
                    take_roster=self.apply,
                    dialled=dialled,
                )
        except TimeoutError:
            await stream.refuse(PLAIN_WORD)
            if dialled:
                raise PeerUnreachable(f"{stream.peer} accepted the connection, but did not say who it is.") from None
            raise Refused(f"It did not say who it is within {GREETING_TIMEOUT:g} seconds.") from None
        except AinetError:
            await stream.refuse(PLAIN_WORD)
            raise
        except BaseException:
            await stream.abort()
            raise
        return self._add(stream, path, relay, greeting)

    def _add(self, stream: SecureStream, path: str, relay: str | None, greeting: Greeting) -> PeerLink:
        peer = greeting.hello.id
        member = self.identity.roster.member(peer)
        name = member.name if member and not greeting.is_contact else greeting.hello.name
        stream.peer = name
        link = PeerLink(
            stream,
            peer,
            name,
            path=path,
            relay=relay,
            machine=greeting.hello.machine,
            instance=greeting.hello.instance,
            channels=None if greeting.is_contact else self.channels,
            handlers=self._open_handlers if greeting.is_contact else self._handlers,
            take_roster=None if greeting.is_contact else self._take_roster,
            follows=self.identity.id > peer,
            keepalive=self._config.link_keepalive,
            timeout=self._config.link_timeout,
            log=self._log,
        )
        others = [other for other in self._greetings if other.peer_id == peer and not other.closed.is_set()]
        self._greetings[link] = greeting
        link.on_close(self._forget)
        if not greeting.is_contact:
            link.on_close(self.channels.link_lost)
        for other in others:
            if self._greetings[other].hello.instance != greeting.hello.instance:
                other.close(PeerUnreachable(f"{name} was restarted."), tell=False)
        if len(others) >= MAX_LINKS:
            others[0].close(PeerUnreachable("There are newer links between these two devices."))
        self._learn_of(greeting)
        self.learn(greeting.hints)
        if greeting.is_contact:
            if self.identity.contacts.get(peer) is None:  # it was forgotten during the greeting
                forgotten = Refused("This device is no contact there any more.")
                link.close(forgotten)
                raise forgotten
            self._log.info("The contact %s is connected (%s).", name, path)
            for callback in self._contact_callbacks:
                callback(link)
            self._upkeep.wake()
            return link
        if greeting.roster_digest != self.identity.signed_roster.digest:
            # It changed during the greeting, or was merged with the other one's.
            link.send_roster(self._update())
        try:
            check_peer(self.identity, peer, greeting.certificate_serial)
        except Refused as exc:
            link.close(exc)
            raise
        self._log.info("%s is connected (%s).", name, path)
        self.channels.link_added(link)
        for callback in self._linked_callbacks:
            callback(link)
        if others or relay is not None:
            self._upkeep.wake()
        else:  # whoever was away with this one may be there again, too
            self._upkeep.reset()
        return link

    def _forget(self, link: PeerLink) -> None:
        greeting = self._greetings.pop(link)
        self._learn_of(greeting)
        reason = link.error.message if link.error else ""
        self._log.info("The link to %s is closed: %s", link.peer_name, reason)
        task = asyncio.create_task(link.wait_closed())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        self._upkeep.wake()

    def _learn_of(self, greeting: Greeting) -> None:
        now = self.identity.now()
        # The first is the one that the peer recommends: the most recent.
        told = reversed(greeting.hello.addresses)
        self.learn(tuple(Hint(greeting.hello.id, address, now + i * 1e-3) for i, address in enumerate(told)))

    def _take_roster(self, link: PeerLink, update: RosterUpdate) -> None:
        self.apply(update.roster)
        self.learn(update.hints)

    async def _renew(self, link: PeerLink, request: RenewCertificate) -> Renewed:
        certificate = self.identity.renew(request.request, link.peer_id)
        self._log.info("The certificate of %s was renewed.", link.peer_name)
        self.roster_changed()
        return Renewed(certificate)

    async def _answer_probe(self, _link: PeerLink, request: Probe) -> Payload:
        return Payload(os.urandom(request.size))  # random, as what is compressed on its way would seem fast

    def _update(self) -> RosterUpdate:
        return RosterUpdate(self.identity.signed_roster, tuple(self.book.hints()))

    def _known_ids(self) -> set[str]:
        members = {member.id for member in self.identity.roster.members}
        return members | {contact.id for contact in self.identity.contacts.all()}

    def _revoked_ids(self) -> set[str]:
        return {revoked.id for revoked in self.identity.roster.revoked}

    def _tls(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        credentials = self.identity.link_credentials()
        if self._contexts is None or self._contexts[0] != credentials:
            self._contexts = (credentials, server_context(credentials), client_context(credentials))
        return self._contexts[1], self._contexts[2]
