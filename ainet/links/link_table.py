"""The links that are open: how each begins, and what follows when it does or ends."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING

from ainet.errors import AinetError, IdentityTaken, PeerUnreachable, Refused
from ainet.links.channels import Channels
from ainet.links.frames import Hint, RosterUpdate
from ainet.links.greeting import Greeting, check_peer, greet
from ainet.links.link import PeerLink
from ainet.links.standing import Standing
from ainet.links.twins import Twins, TwinSeen
from ainet.signals import Signal
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from ainet.config import AinetConfig
    from ainet.identity.identity import Identity
    from ainet.identity.roster import SignedRoster
    from ainet.links.address_book import AddressBook
    from ainet.links.link import Handler
    from ainet.links.request import Request
    from ainet.wire.carrier import Carrier
    from ainet.wire.stream import SecureStream

MAX_LINKS = 4  # with one peer
_WHO = {Standing.MEMBER: "{}", Standing.CONTACT: "The contact {}", Standing.STRANGER: "A {}"}
PLAIN_WORD = b"This port speaks TLS 1.3 and is for members of an ainet swarm only.\n"


class LinkTable:
    """The open links of this node, and what is known of where other devices listen.

    Parameters
    ----------
    identity, book
        Of this node; where others listen.
    config
        Keep-alive and silence of a link, in seconds.
    log
        For links that begin and end.
    addresses
        Returns where this node listens, the address on the network of whoever asks first.
    sightings
        Returns where a device was seen on the local network.
    accept_relayed
        Greets whoever wants a link over a carrier, relayed by the member at the other end of a link.
    apply_roster
        Takes over a roster that another member showed; raises `Refused` when it is not the CA's.
    """

    def __init__(
        self,
        identity: Identity,
        book: AddressBook,
        config: AinetConfig,
        log: logging.Logger,
        *,
        addresses: Callable[[str], tuple[str, ...]],
        sightings: Callable[[str], list[str]],
        accept_relayed: Callable[[Carrier, PeerLink, str], None],
        apply_roster: Callable[[SignedRoster], None],
        timing: Timing = TIMING,
    ) -> None:
        self._timing = timing
        self.identity = identity
        self.book = book
        self._config = config
        self._log = log
        self._addresses = addresses
        self._sightings = sightings
        self._apply_roster = apply_roster
        self._instance, self._started = uuid.uuid4().hex, time.time()
        #: Devices that run twice.
        self.twins = Twins(identity, log, timing=timing)
        self._handlers: dict[str, tuple[type[Request], Handler]] = {}
        self._greetings: dict[PeerLink, Greeting] = {}
        self._ending: set[asyncio.Task[None]] = set()
        #: Byte streams to members that outlive links.
        self.channels = Channels(lambda node: self.open_link(node, Standing.MEMBER), accept_relayed, log, timing=timing)
        #: Tells of every link that begins, by the standing of the peer.
        self.linked: dict[Standing, Signal[[PeerLink]]] = {
            standing: Signal("a link begins", log) for standing in Standing
        }
        #: Tells that links came or went; True says that a device is there again which was away.
        self.changed: Signal[[bool]] = Signal("links came or went", log)
        self.handle(TwinSeen, self.twins.answer)

    def handle(self, kind: type[Request], handler: Handler) -> None:
        """Answer requests of type `kind` with `handler`, as far as `kind.audience` permits.

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

    def links(self, standing: Standing = Standing.MEMBER) -> list[PeerLink]:
        """Return the links that are open, of all devices of this standing; there may be several of one."""
        return [link for link in self._greetings if link.standing is standing and not link.closed.is_set()]

    def open_link(self, node_id: str, standing: Standing | None = None) -> PeerLink | None:
        """Return an open link to the device, the newest: an older one may be about to be found dead.

        Parameters
        ----------
        standing
            As which the device is linked; None takes what there is.
        """
        for wanted in sorted(Standing, reverse=True) if standing is None else [standing]:
            for link in reversed(self.links(wanted)):
                if link.peer_id == node_id:
                    return link
        return None

    def known_addresses(self, node_id: str) -> list[str]:
        """Return where the device may be reached, the best address first."""
        return list(dict.fromkeys([*self._sightings(node_id), *self.book.addresses(node_id)]))

    def known_ids(self) -> set[str]:
        """Return the ids of all members and contacts."""
        members = {member.id for member in self.identity.roster.members}
        return members | {contact.id for contact in self.identity.contacts.all()}

    def learn(self, hints: tuple[Hint, ...]) -> None:
        """Note where members and contacts listen."""
        now, known = self.identity.now(), self.known_ids()
        before = {hint.address for hint in self.book.hints()}
        for hint in hints:
            if hint.id in known and hint.id != self.identity.id:
                self.book.learn(hint, now)
        if before != {hint.address for hint in self.book.hints()}:
            self.book.save()

    def serials(self) -> list[tuple[PeerLink, str]]:
        """Return the links to members, each with the serial number of the certificate that the peer showed."""
        return [(link, self._greetings[link].certificate_serial) for link in self.links()]

    def expired_links(self) -> list[PeerLink]:
        """Return the links whose peer's certificate has expired since, and was not renewed."""
        now, roster = self.identity.now(), self.identity.roster
        expired = []
        for link, greeting in self._greetings.items():
            member = roster.member(link.peer_id)  # None for a contact, whose new certificate comes with a new link
            if max(greeting.certificate_expires, member.expires if member else 0.0) < now:
                expired.append(link)
        return expired

    def close_all(self, reason: AinetError) -> None:
        """Close every link, and tell the peers why."""
        for link in list(self._greetings):
            link.close(reason)

    async def wait_closed(self) -> None:
        """Wait until nothing is left of the links that were closed."""
        await asyncio.gather(*self._ending)

    def roster_update(self) -> RosterUpdate:
        """Return what a member is shown when the roster has changed."""
        return RosterUpdate(self.identity.signed_roster, tuple(self.book.hints()))

    async def establish(
        self,
        stream: SecureStream,
        path: str,
        dialled: str | None = None,
        *,
        relay: str | None = None,
        stranger: Callable[[str], None] | None = None,
    ) -> PeerLink:
        """Greet the other end of `stream` and return the link to it.

        Parameters
        ----------
        path
            The way to it, or its origin, in words.
        dialled
            The node that was meant; None on the accepting end, and for an address that anybody may have.
        relay
            The id of the member that passes everything on.
        stranger
            Raises where a device may not be linked as a stranger; see `greet`.

        Raises
        ------
        PeerUnreachable, Refused, ProtocolError
            There is no link; the other end knows why, too.
        """
        try:
            async with asyncio.timeout(self._timing.greeting):
                await stream.handshake()
                greeting = await greet(
                    stream,
                    self.identity,
                    addresses=self._addresses(stream.local_host),
                    instance=self._instance,
                    started=self._started,
                    hints=self.book.hints(),
                    take_roster=self._apply_roster,
                    dialled=dialled,
                    stranger=stranger,
                )
        except TimeoutError:
            await stream.refuse(PLAIN_WORD)
            if dialled:
                raise PeerUnreachable(f"{stream.peer} accepted the connection, but did not say who it is.") from None
            raise Refused(f"It did not say who it is within {self._timing.greeting:g} seconds.") from None
        except AinetError:
            await stream.refuse(PLAIN_WORD)
            raise
        except BaseException:
            await stream.abort()
            raise
        link = self._make(stream, path, relay, greeting)
        try:
            gone = [other for other in self._others(link) if other.instance != link.instance]
            if link.standing is not Standing.STRANGER:  # what a stranger says of its runs means nothing
                gone = await self.twins.check(link, self._others(link))
        except IdentityTaken as exc:
            link.close(exc)
            await link.wait_closed()
            raise
        except BaseException:
            link.close(PeerUnreachable("The link was not wanted any more."))
            raise
        for other in gone:
            other.close(PeerUnreachable(f"{link.peer_name} was restarted."), tell=False)
        if link.error is not None:
            raise link.error
        try:
            if stranger is not None:  # others may have come meanwhile
                stranger(link.peer_id)
        except AinetError as exc:
            link.close(exc)
            await link.wait_closed()
            raise
        self._add(link, greeting)
        return link

    def _others(self, link: PeerLink) -> list[PeerLink]:
        """Return the open links to the same device, the oldest first."""
        return [other for other in self._greetings if other.peer_id == link.peer_id and not other.closed.is_set()]

    def _make(self, stream: SecureStream, path: str, relay: str | None, greeting: Greeting) -> PeerLink:
        peer = greeting.hello.id
        member = self.identity.roster.member(peer) if greeting.standing is Standing.MEMBER else None
        stream.peer = member.name if member else greeting.hello.name
        return PeerLink(
            stream,
            peer,
            stream.peer,
            path=path,
            relay=relay,
            machine=greeting.hello.machine,
            instance=greeting.hello.instance,
            started=greeting.hello.started,
            standing=greeting.standing,
            handlers=self._handlers,
            receive_channel_frame=self.channels.receive,
            receive_roster=self._receive_roster,
            follows=self.identity.id > peer,
            keepalive=self._config.link_keepalive,
            timeout=self._config.link_timeout,
            log=self._log,
        )

    def _add(self, link: PeerLink, greeting: Greeting) -> None:
        others = self._others(link)
        self._greetings[link] = greeting
        link.on_close(self._remove)
        if len(others) >= MAX_LINKS:
            others[0].close(PeerUnreachable("There are newer links between these two devices."))
        self._learn_of(greeting)
        self.learn(greeting.hints)
        try:
            self._check(link, greeting)
        except Refused as exc:
            link.close(exc)
            raise
        who = _WHO[link.standing].format(link.peer_name)
        self._log.info("%s is connected (%s).", who, link.path)
        if link.standing is Standing.MEMBER:
            link.on_close(self.channels.link_lost)
            self.channels.link_added(link)
        self.linked[link.standing].emit(link)
        # Whoever was away with this one may be there again, too.
        self.changed.emit(link.standing is Standing.MEMBER and not others and link.relay is None)

    def _check(self, link: PeerLink, greeting: Greeting) -> None:
        """Raise `Refused` when what was agreed on in the greeting does not hold any more."""
        if link.standing is Standing.STRANGER:
            return
        if link.standing is Standing.CONTACT:
            if self.identity.contacts.get(link.peer_id) is None:  # it was forgotten during the greeting
                raise Refused("This device is no contact there any more.")
            return
        if greeting.roster_digest != self.identity.signed_roster.digest:
            # It changed during the greeting, or was merged with the other one's.
            link.send_roster(self.roster_update())
        check_peer(self.identity, link.peer_id, greeting.certificate_serial)

    def _remove(self, link: PeerLink) -> None:
        greeting = self._greetings.pop(link)
        self._learn_of(greeting)
        if isinstance(link.error, IdentityTaken) and self.identity.note_twin(link.error.message):
            self._log.warning("%s", link.error.message)
            self.close_all(link.error)
        reason = link.error.message if link.error else ""
        self._log.info("The link to %s is closed: %s", link.peer_name, reason)
        task = asyncio.create_task(link.wait_closed())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        self.changed.emit(False)

    def _learn_of(self, greeting: Greeting) -> None:
        now = self.identity.now()
        # The first is the one that the peer recommends: the most recent.
        told = reversed(greeting.hello.addresses)
        self.learn(tuple(Hint(greeting.hello.id, address, now + i * 1e-3) for i, address in enumerate(told)))

    def _receive_roster(self, _link: PeerLink, update: RosterUpdate) -> None:
        self._apply_roster(update.roster)
        self.learn(update.hints)
