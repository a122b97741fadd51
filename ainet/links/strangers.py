"""Devices of which nothing is known: linked where both owners want to deal with strangers, and nowhere else.

Two such devices trust no common authority. Before TLS begins, each names the CA of its certificate; the handshake then
proves that the other end has a certificate of the CA that it named, and so which key it has. Whoever sits in between
can name another CA, and is then the device that it names: another stranger. What a stranger may ask for follows from
its standing.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import TYPE_CHECKING

import msgspec

from ainet.errors import Busy, PeerUnreachable, ProtocolError, Refused
from ainet.identity.certificates import read_ca, swarm_of, to_der, to_pem
from ainet.identity.credentials import client_context, server_context
from ainet.links.dialler import Attempts, first
from ainet.links.standing import Standing, stranger_name
from ainet.tasks import Tasks
from ainet.timing import TIMING, Timing
from ainet.wire.carrier import TcpCarrier, dial
from ainet.wire.stream import SecureStream

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from cryptography import x509

    from ainet.identity.credentials import Credentials
    from ainet.links.link import PeerLink
    from ainet.links.link_table import LinkTable
    from ainet.wire.carrier import Carrier

GREETING = b"ainet stranger 1\n"
#: Bytes of a CA's certificate.
MAX_CA = 2048
MAX_LINKS = 8
#: Strangers that may come in a second, and at once.
GREETINGS_A_SECOND, MOST_GREETINGS = 2.0, 32
#: Strangers whose swarm is remembered once they are gone.
MOST_KNOWN = 256


class Strangers:
    """Lets devices of which nothing is known in, and meets them.

    Parameters
    ----------
    table
        The open links, to which theirs are added.
    credentials
        Returns those of this node.
    addresses
        Returns where a device on the local network says that it listens.
    log
        For links that nobody uses.
    """

    def __init__(
        self,
        table: LinkTable,
        credentials: Callable[[], Credentials],
        addresses: Callable[[str], list[str]],
        log: logging.Logger,
        *,
        timing: Timing = TIMING,
    ) -> None:
        self._table, self._credentials, self._addresses, self._timing = table, credentials, addresses, timing
        #: Whether others may come; whom this device meets does not follow from it.
        self.is_admitted = False
        self._swarms: dict[str, bytes] = {}
        self._greetings, self._greeted = 0.0, 0.0
        #: Links that strangers have opened.
        self._came: weakref.WeakSet[PeerLink] = weakref.WeakSet()
        self._tasks = Tasks("A stranger's link was not looked after", log)
        table.linked[Standing.STRANGER].connect(lambda link: self._tasks.spawn(self._close_unused(link)))

    async def stop(self) -> None:
        """Look after nobody's link any more."""
        await self._tasks.stop()

    def swarm(self, node_id: str) -> bytes | None:
        """Return the id of the swarm of a stranger that was met, if it was."""
        return self._swarms.get(node_id)

    async def connect(self, node_id: str) -> PeerLink:
        """Return a link to a stranger on the local network: the open one, or a new one.

        Raises
        ------
        PeerUnreachable, Refused
            It does not answer, or has no dealings with strangers.
        """
        link = self._table.open_link(node_id, Standing.STRANGER)
        if link is not None:
            return link
        found = await first(self._addresses(node_id), lambda address: self.meet(address, node_id))
        if not isinstance(found, Attempts):
            return found
        if found.refused is not None:
            raise found.refused
        raise PeerUnreachable(
            f"{stranger_name(node_id)} does not answer ({'; '.join(found.reasons) or 'it is not here'})."
        )

    async def meet(self, address: str, node_id: str | None = None) -> PeerLink:
        """Return a new link to the stranger that listens at "host:port", whichever it is unless `node_id` says so.

        Raises
        ------
        PeerUnreachable, Refused
            Nobody answers there; or somebody who has no dealings with strangers.
        """
        carrier = await dial(address)
        try:
            if not isinstance(carrier, TcpCarrier):
                raise Refused("Strangers are met on ports of their own, not at a Jupyter server's address.")
            async with asyncio.timeout(self._timing.greeting):
                carrier.write(self._own_greeting())
                ca = await _hear(carrier)
            if ca is None:
                raise Refused("That device has no dealings with strangers. Its owner can: `ainet sell --strangers`.")
            context = client_context(self._with(ca))
        except OSError as exc:  # a TimeoutError is one
            await give_up(carrier)
            raise PeerUnreachable(f"{address} did not say who it is.") from exc
        except BaseException:
            await give_up(carrier)
            raise
        stream = SecureStream(carrier, context, server_side=False, peer="the stranger")
        return await self._table.establish(stream, address, node_id, stranger=self._allow(ca))

    async def hear(self, carrier: TcpCarrier) -> x509.Certificate | None:
        """Return the CA of a stranger that knocks, which learns this node's; None for whoever begins with TLS.

        Raises
        ------
        AinetError
            What was said is no greeting.
        OSError
            The carrier broke, or nothing came in time.
        """
        if not self.is_admitted:
            return None
        async with asyncio.timeout(self._timing.greeting):
            ca = await _hear(carrier)
        if ca is not None:
            self._count_greeting()
            carrier.write(self._own_greeting())
        return ca

    async def greet(self, carrier: Carrier, ca: x509.Certificate, origin: str) -> None:
        """Link the stranger at the other end; raises `AinetError` where there is no link."""
        try:
            stream = SecureStream(carrier, server_context(self._with(ca)), server_side=True, peer="the stranger")
        except BaseException:
            await give_up(carrier)
            raise
        self._came.add(await self._table.establish(stream, origin, stranger=self._allow(ca, is_incoming=True)))

    def check(self, node_id: str, *, is_incoming: bool) -> None:
        """Raise `Refused` or `Busy` unless a device may be linked as a stranger."""
        if node_id in self._table.known_ids():
            raise Refused("The two devices know each other: they are linked without being strangers.")
        links = [link for link in self._table.links(Standing.STRANGER) if link in self._came]
        if is_incoming and len(links) >= MAX_LINKS:
            longest = max(links, key=lambda link: link.unused_for)
            if longest.unused_for < self._timing.stranger_idle:
                raise Busy(f"{MAX_LINKS} strangers are here already. Ask again soon.", retry_after=5.0)
            longest.close(PeerUnreachable("Other strangers wanted to come, and this link was not used."))

    def forget(self, node_id: str) -> None:
        """Close the links of a device that is no stranger any more."""
        self._close("The two devices know each other now.", node_id)

    def close_all(self) -> None:
        """Close the links of all strangers, which do not learn this device's name."""
        self._close("The device was stopped.")

    def _close(self, words: str, node_id: str | None = None) -> None:
        for link in self._table.links(Standing.STRANGER):
            if node_id in (None, link.peer_id):
                link.close(PeerUnreachable(words))

    def _allow(self, ca: x509.Certificate, *, is_incoming: bool = False) -> Callable[[str], None]:
        """Return what checks whether a device with this CA may be linked; called at its greeting, and at its end."""

        def check(node_id: str) -> None:
            self.check(node_id, is_incoming=is_incoming)
            self._swarms.pop(node_id, None)
            here = {link.peer_id for link in self._table.links(Standing.STRANGER)}
            gone = [one for one in self._swarms if one not in here]
            for one in gone[: max(len(self._swarms) - MOST_KNOWN + 1, 0)]:
                del self._swarms[one]
            self._swarms[node_id] = bytes.fromhex(swarm_of(ca))

        return check

    def _count_greeting(self) -> None:
        """Raise `Busy` where strangers come too often: a name costs nothing, and each costs a handshake and a row."""
        now = asyncio.get_running_loop().time()
        self._greetings = max(self._greetings - (now - self._greeted) * GREETINGS_A_SECOND, 0.0)
        self._greeted = now
        if self._greetings >= MOST_GREETINGS:
            raise Busy("Too many strangers come at once.", retry_after=5.0)
        self._greetings += 1

    def _own_greeting(self) -> bytes:
        ca = to_der(self._table.identity.ca)
        return GREETING + len(ca).to_bytes(2, "big") + ca

    def _with(self, ca: x509.Certificate) -> Credentials:
        if swarm_of(ca) == self._table.identity.swarm:
            raise Refused("Devices of one owner are no strangers.")
        return msgspec.structs.replace(self._credentials(), ca=to_pem(ca))

    async def _close_unused(self, link: PeerLink) -> None:
        while not link.closed.is_set():
            if link.unused_for >= self._timing.stranger_unused:
                link.close(PeerUnreachable("The link was not used."))
            await asyncio.sleep(self._timing.stranger_unused - link.unused_for)


async def give_up(carrier: Carrier) -> None:
    """Close a carrier at once, whatever it was about to carry."""
    carrier.cut()
    with contextlib.suppress(OSError):
        await carrier.wait_closed()


async def _hear(carrier: TcpCarrier) -> x509.Certificate | None:
    """Return the CA that the other end names; None, and nothing is taken, where it says something else."""
    data = b""
    whole = len(GREETING) + 2
    while len(data) < whole:
        more = await carrier.read()
        if not more:
            raise PeerUnreachable("The other device closed the connection.")
        data += more
        if not data.startswith(GREETING[: len(data)]):
            carrier.unread(data)
            return None
        if len(data) >= len(GREETING) + 2:
            whole = len(GREETING) + 2 + int.from_bytes(data[len(GREETING) : len(GREETING) + 2], "big")
            if whole > len(GREETING) + 2 + MAX_CA:
                raise ProtocolError("The greeting of a stranger is too long.")
    carrier.unread(data[whole:])
    return read_ca(data[len(GREETING) + 2 : whole])
