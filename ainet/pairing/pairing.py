"""Pairing: how a device with a ticket becomes a member.

The inviting device proves itself first: its TLS certificate must be issued by a CA whose key has the fingerprint that
the ticket names. The joiner proves the ticket's secret over the channel that it sees (`tickets.proof`), and its device
key by a certificate signing request. It receives its certificate, the CA's, the owner's statement, and the roster.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import msgspec

from ainet.api.swarm import Invitation
from ainet.errors import AinetError, PeerUnreachable, ProtocolError, Refused, UsageError
from ainet.identity.certificates import certificate_id, check_issued, read_ca, swarm_of, to_der
from ainet.identity.credentials import pairing_client_context, pairing_server_context
from ainet.identity.keys import unseal
from ainet.identity.roster import Name, check_name
from ainet.identity.swarm import Admission
from ainet.links.frames import (
    MAX_EARLY_FRAME,
    PROTOCOL,
    Addresses,
    Admitted,
    Goodbye,
    Hint,
    Introduce,
    Introduced,
    JoinRequest,
    PairingHello,
    encode_frame,
    expect,
    read_frame,
)
from ainet.pairing.introductions import Introductions
from ainet.pairing.tickets import Ticket, TicketBook, proof
from ainet.timing import TIMING
from ainet.wire.address import is_loopback, is_wildcard, join_address, outward_host, split_address
from ainet.wire.carrier import TcpCarrier, dial
from ainet.wire.interfaces import host_addresses
from ainet.wire.listener import Listener
from ainet.wire.stream import SecureStream

if TYPE_CHECKING:
    import logging

    from cryptography import x509

    from ainet.identity.contacts import Contact
    from ainet.identity.identity import Identity
    from ainet.links.links import Links
    from ainet.pairing.tickets import Purpose
    from ainet.wire.listener import Serve

MAX_PAIRINGS = 16  # connections at once
MAX_HOSTS = 4  # in a ticket: it is copied by hand
MINUTES = 10.0  # that a ticket lives
PLAIN_WORD = b"This port waits for `ainet join` and speaks TLS 1.3 only.\n"


class Joined(msgspec.Struct, frozen=True):
    """The swarm that this device joined, its own name in it, and the names of all members.

    `warning` says so when the inviting device cannot be reached as a member yet.
    """

    swarm: str
    name: str
    members: list[str]
    warning: str | None


class JoinBody(msgspec.Struct, frozen=True, array_like=True):
    """A joiner's request.

    Attributes
    ----------
    ticket
        The ticket's id.
    addresses
        The addresses on which the joiner accepts members.
    request
        Certificate signing request (DER).
    """

    ticket: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    name: Name
    addresses: Addresses
    request: Annotated[bytes, msgspec.Meta(max_length=4096)]


class Pairing:
    """Invites devices into this node's swarm, joins those of others, and hands over the CA key.

    It listens only while a ticket lives. Tickets are kept in memory: a restart voids them.
    """

    def __init__(self, identity: Identity, links: Links, log: logging.Logger) -> None:
        self._identity = identity
        self._links = links
        self._log = log
        self._tickets = TicketBook(identity.now)
        self.introductions = Introductions(identity, links, self._tickets)
        self._listeners: dict[str, _Listener] = {}
        self._closed: list[_Listener] = []
        self._inviting = asyncio.Lock()
        self._joining = asyncio.Lock()

    async def invite(
        self, listen: str | None = None, minutes: float = MINUTES, purpose: Purpose = "join"
    ) -> Invitation:
        """Return a ticket with which one device may join, or become a contact, within `minutes`.

        Parameters
        ----------
        listen
            Address, with or without a port, on which the joiner is waited for; the node's own when None.

        Raises
        ------
        Refused
            This device does not hold the CA key.
        UsageError
            The address cannot be listened on.
        """
        if purpose == "join":
            self._identity.check_may_invite()
        elif self._identity.problem:
            raise Refused(self._identity.problem)
        host, port = split_address(listen or self._links.listen_host, 0)
        async with self._inviting:
            listener = await self._listen(host, port)
            hosts = (host_addresses() or [outward_host()])[:MAX_HOSTS] if is_wildcard(host) else [host]
            addresses = tuple(join_address(one, listener.port) for one in hosts)
            address = addresses[0]
            try:
                ticket, expires = self._tickets.new(addresses, bytes.fromhex(self._identity.swarm), minutes, purpose)
                listener.tickets.add(ticket.id)
            finally:
                self._close_idle()
        listener.timers.append(asyncio.get_running_loop().call_later(60 * minutes, self._expire, ticket.id))
        self._log.info("A ticket was given out; %s waits for its device.", address)
        warning = None
        if is_loopback(self._links.listen_host) and not is_loopback(host):
            warning = (
                f"This node accepts members only from the device itself ({self._links.address}). For the new member to "
                f"reach it, start it with an address of the network (--listen 0.0.0.0)."
            )
            self._log.warning("%s", warning)
        return Invitation(str(ticket), address, expires, warning)

    async def join(self, ticket: str, name: str | None = None) -> Joined:
        """Join the swarm that gave out `ticket`, as `name`; a name that is taken gets a number.

        Raises
        ------
        Refused
            The ticket, or the device that answers, is not what it should be.
        PeerUnreachable
            Nobody waits for the ticket any more.
        UsageError
            This device belongs to a swarm with other members.
        """
        async with self._joining:
            try:
                return await self._join(Ticket.parse(ticket), check_name(name or self._identity.name))
            except AinetError as exc:
                self._log.warning("Joining failed: %s", exc.message)
                raise

    async def accept(self, text: str) -> Contact:
        """Become contacts with the device that gave out an introduction's ticket.

        Raises
        ------
        Refused, PeerUnreachable
            As `join` does.
        """
        async with self._joining:
            ticket = Ticket.parse(text)
            if ticket.purpose != "introduce":
                raise Refused("This ticket is for `ainet join`. Contacts need one of `ainet introduce`.")
            if ticket.fingerprint.hex() == self._identity.swarm:
                raise UsageError("This ticket is of a device of this device's own swarm, which needs no introduction.")
            stream = await self._reach(ticket)
            try:
                async with asyncio.timeout(TIMING.pairing):
                    await stream.handshake()
                    leaf = to_der(await self._check_inviter(stream, ticket))
                    asked = self.introductions.request(ticket, leaf, self._links.addresses(stream.local_host))
                    stream.write(encode_frame(asked))
                    contact = self.introductions.accept(leaf, await expect(stream, Introduced))
            except TimeoutError:
                raise PeerUnreachable(
                    f"The introduction failed: {stream.peer} did not answer within {TIMING.pairing:g} seconds."
                ) from None
            finally:
                await stream.close()
            self._log.info("%s is a contact now.", contact.name)
            return contact

    async def export_key(self, passphrase: str) -> str:
        """Return the swarm's CA key and owner key, encrypted, as one line of text for `import_key` elsewhere."""
        return await asyncio.to_thread(self._identity.export_key, passphrase)

    async def import_key(self, text: str, passphrase: str) -> None:
        """Make this device hold the CA key, too, and tell the members; raises what `Identity.import_key` raises."""
        self._identity.adopt_key(await asyncio.to_thread(unseal, text, passphrase))
        self._links.trust.roster_changed()

    async def stop(self) -> None:
        """Stop waiting for joiners."""
        for listener in (*self._listeners.values(), *self._closed):
            await listener.stop()
        self._listeners.clear()
        self._closed.clear()

    # The inviting device

    async def _listen(self, host: str, port: int) -> _Listener:
        known = self._listeners.get(join_address(host, port))
        if known is not None:
            return known
        listener = _Listener(self._accepted, limit=MAX_PAIRINGS, log=self._log)
        try:
            await listener.open(host, port)
        except OSError as exc:
            raise UsageError(
                f"Nobody can be waited for on {host}: {exc.strerror or exc}. Choose another address (--listen)."
            ) from exc
        self._listeners[join_address(host, port)] = listener
        return listener

    def _expire(self, ticket_id: bytes) -> None:
        self._tickets.expire(ticket_id)
        self._close_idle()

    def _close_idle(self) -> None:
        self._closed = [listener for listener in self._closed if listener.busy]
        for name, listener in list(self._listeners.items()):
            if not any(self._tickets.lives(ticket) for ticket in listener.tickets):
                listener.close()
                self._closed.append(self._listeners.pop(name))

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        context = pairing_server_context(self._identity.credentials())
        stream = SecureStream(TcpCarrier(reader, writer), context, server_side=True, peer="the other device")
        leaf = to_der(self._identity.certificate)
        try:
            async with asyncio.timeout(TIMING.pairing):
                await self._receive(stream, leaf)
        except TimeoutError:
            self._log.warning("Pairing with %s ended: it did not ask within %g seconds.", address, TIMING.pairing)
            await stream.refuse(PLAIN_WORD)
        except AinetError as exc:
            self._log.warning("Pairing with %s was refused: %s", address, exc.message)
            await stream.refuse(PLAIN_WORD)
        except BaseException:
            await stream.abort()
            raise
        else:
            await stream.close()

    async def _receive(self, stream: SecureStream, leaf: bytes) -> None:
        await stream.handshake()
        stream.write(encode_frame(PairingHello(PROTOCOL, to_der(self._identity.ca))))
        asked = await read_frame(stream, MAX_EARLY_FRAME)
        addresses = self._links.addresses(stream.local_host)
        admitted: Admitted | Introduced
        try:
            if isinstance(asked, Introduce):
                contact, admitted = self.introductions.admit(asked, leaf, addresses)
                self._log.info("%s is a contact now.", contact.name)
            elif isinstance(asked, JoinRequest):
                admitted = self._admit(asked, leaf, addresses)
            elif isinstance(asked, Goodbye):
                raise asked.to_error()
            else:
                raise ProtocolError(f"The other device sent {type(asked).__name__} where JoinRequest was expected.")
        except AinetError as exc:
            stream.write(encode_frame(Goodbye.from_error(exc)))
            raise
        finally:
            self._close_idle()
        stream.write(encode_frame(admitted))
        await stream.drain()

    def _admit(self, asked: JoinRequest, leaf: bytes, addresses: tuple[str, ...]) -> Admitted:
        # Without a pause from the check to the burning: of two that come at once, one is too late.
        try:
            body = msgspec.msgpack.decode(asked.body, type=JoinBody)
        except (ValueError, RecursionError) as exc:
            raise ProtocolError(f"The request to join cannot be read ({exc}).") from exc
        self._tickets.check(body.ticket, leaf, asked.body, asked.proof)
        admission, member = self._identity.admit(body.request, body.name)
        self._tickets.burn(body.ticket, member.name)
        self._log.info("%s joined the swarm.", member.name)
        now = self._identity.now()
        here = [Hint(self._identity.id, address, now) for address in addresses]
        hints = (*here, *self._links.book.hints())
        self._links.table.learn(tuple(Hint(member.id, address, now) for address in body.addresses))
        self._links.trust.roster_changed()
        return Admitted(
            certificate=admission.certificate,
            ca=admission.ca,
            owner=admission.owner,
            statement=admission.statement,
            roster=admission.roster,
            hints=hints,
        )

    # The joiner

    async def _join(self, ticket: Ticket, name: str) -> Joined:
        if ticket.purpose != "join":
            raise Refused("This ticket introduces a device of another owner: use `ainet accept`.")
        swarm = ticket.fingerprint.hex()
        self._identity.check_may_join(swarm)
        stream = await self._reach(ticket)
        try:
            async with asyncio.timeout(TIMING.pairing):
                await stream.handshake()
                inviter, admitted = await self._ask(stream, ticket, name)
        except TimeoutError:
            raise PeerUnreachable(
                f"Pairing failed: {stream.peer} did not answer within {TIMING.pairing:g} seconds."
            ) from None
        finally:
            await stream.close()
        admission = Admission(
            certificate=admitted.certificate,
            ca=admitted.ca,
            owner=admitted.owner,
            statement=admitted.statement,
            roster=admitted.roster,
        )
        former = self._identity.roster
        self._identity.adopt(admission, swarm)
        others = any(member.id != self._identity.id for member in former.members)
        self._links.swarm_changed(admitted.hints, former.swarm, shared=others)
        self._log.info("This device joined the swarm as %s.", self._identity.name)
        warning = None
        try:
            await self._links.connect(inviter)
        except AinetError as exc:
            warning = exc.message
            self._log.warning("%s", warning)
        members = [member.name for member in self._identity.roster.members]
        return Joined(swarm, self._identity.name, members, warning)

    async def _reach(self, ticket: Ticket) -> SecureStream:
        reasons = []
        for address in ticket.addresses:
            try:
                carrier = await dial(address)
            except PeerUnreachable as exc:
                reasons.append(exc.message)
            except UsageError as exc:
                raise Refused(exc.message) from exc
            else:
                peer = f"the device at {address}"
                return SecureStream(carrier, pairing_client_context(), server_side=False, peer=peer)
        raise PeerUnreachable(
            f"Nobody waits for this ticket any more ({'; '.join(reasons)}). It is used, expired or void, or the device "
            f"cannot be reached from here. Ask for a new one there: `ainet invite --listen ADDRESS`."
        )

    async def _check_inviter(self, stream: SecureStream, ticket: Ticket) -> x509.Certificate:
        """Return the certificate of the other end, which must be of the swarm that the ticket names."""
        hello = await expect(stream, PairingHello, MAX_EARLY_FRAME)
        try:
            if hello.protocol != PROTOCOL:
                raise Refused("The two devices speak different protocols: update ainet on both.")
            ca, leaf = read_ca(hello.ca), stream.certificate
            if swarm_of(ca) != ticket.fingerprint.hex():
                raise Refused("The device that answers is not of the swarm that the ticket names.")
            check_issued(leaf, ca, self._identity.now())
        except Refused as exc:
            stream.write(encode_frame(Goodbye.from_error(exc)))
            raise
        return leaf

    async def _ask(self, stream: SecureStream, ticket: Ticket, name: str) -> tuple[str, Admitted]:
        leaf = await self._check_inviter(stream, ticket)
        inviter = certificate_id(leaf)
        body = msgspec.msgpack.encode(
            JoinBody(
                ticket=ticket.id,
                name=name,
                addresses=self._links.addresses(stream.local_host),
                request=self._identity.request(),
            )
        )
        stream.write(encode_frame(JoinRequest(body, proof(ticket.key, to_der(leaf), body))))
        return inviter, await expect(stream, Admitted)


class _Listener(Listener):
    """A listener, and the tickets for which it is open."""

    def __init__(self, serve: Serve, *, limit: int, log: logging.Logger) -> None:
        super().__init__(serve, limit=limit, log=log)
        self.tickets: set[bytes] = set()
        self.timers: list[asyncio.TimerHandle] = []

    def close(self) -> None:
        """Stop listening; the connections go on."""
        super().close()
        for timer in self.timers:
            timer.cancel()
