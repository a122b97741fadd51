"""The door of a node: where others may connect, and the greeting of whoever does."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from ainet.errors import AinetError, PeerUnreachable, UsageError
from ainet.links.strangers import give_up
from ainet.wire.address import is_wildcard, join_address, outward_host
from ainet.wire.carrier import Carrier, TcpCarrier
from ainet.wire.interfaces import host_addresses
from ainet.wire.listener import Listener
from ainet.wire.stream import SecureStream

if TYPE_CHECKING:
    import logging
    import ssl
    from collections.abc import Callable

    from cryptography import x509

    from ainet.links.link_table import LinkTable
    from ainet.links.strangers import Strangers

MAX_GREETINGS = 64  # connections that have not proved themselves yet
MAX_GUESTS = 32  # of them on carriers that did not come over the node's own port


class Door:
    """Listens on the node's own port, and takes carriers that came elsewhere.

    Parameters
    ----------
    table
        The open links, to which new ones are added.
    strangers
        Greets those of whom nothing is known.
    context
        Returns the TLS context of the accepting end.
    peer_url
        Address of the Jupyter server, where only its port can be reached; empty: none.
    log
        For connections that come to nothing.
    """

    def __init__(
        self,
        table: LinkTable,
        strangers: Strangers,
        context: Callable[[], ssl.SSLContext],
        peer_url: str,
        log: logging.Logger,
    ) -> None:
        self._table, self._strangers = table, strangers
        self._context = context
        self._peer_url = peer_url
        self._log = log
        self._listener = Listener(self._accepted, limit=MAX_GREETINGS, log=log)
        self.guests: set[asyncio.Task[None]] = set()
        self._stopped = False
        #: The address that is listened on, as the configuration names it.
        self.host = ""

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._listener.port

    @property
    def busy(self) -> bool:
        """Whether somebody is there who has not proved yet who it is."""
        return self._listener.busy or bool(self.guests)

    @property
    def address(self) -> str:
        """The address on which this node accepts others: "host:port"."""
        return join_address(outward_host() if is_wildcard(self.host) else self.host, self.port)

    def addresses(self, near: str = "") -> tuple[str, ...]:
        """Return where this node accepts others; see `Links.addresses`."""
        found = [join_address(host, self.port) for host in dict.fromkeys([near, *self.hosts()]) if host]
        if not is_wildcard(self.host):
            found = [join_address(self.host, self.port)]
        return (*found, *([self._peer_url] if self._peer_url else [])) or (self.address,)

    def hosts(self) -> list[str]:
        """Return the addresses of this device that are listened on."""
        return host_addresses() if is_wildcard(self.host) else [self.host]

    async def open(self, host: str, port: int, *, fixed: bool) -> None:
        """Listen, or listen elsewhere; the connections go on.

        Parameters
        ----------
        fixed
            Whether another port will not do when this one is taken.

        Raises
        ------
        UsageError
            The address cannot be listened on.
        """
        self._listener.close()
        try:
            await self._listener.open(host, port)
        except OSError as exc:
            if fixed or exc.errno != errno.EADDRINUSE:
                where = join_address(host, port if fixed else 0)
                raise UsageError(
                    f"Members cannot be accepted on {where}: {exc.strerror or exc}. Choose another address or port."
                ) from exc
            self._log.warning("Port %d is taken: members will find this node on another one.", port)
            await self._listener.open(host, 0)
        self.host = host

    async def stop(self) -> None:
        """Stop listening, and let go of whoever is still being greeted."""
        self._stopped = True
        await self._listener.stop()
        guests = list(self.guests)
        for task in guests:
            task.cancel()
        await asyncio.gather(*guests, return_exceptions=True)

    @property
    def may_greet(self) -> bool:
        """Whether a further guest may come who has not proved yet who it is."""
        return not self._stopped and len(self.guests) < MAX_GUESTS

    def accept(self, carrier: Carrier, origin: str, *, relay: str | None = None) -> None:
        """Greet whoever is at the other end of `carrier`, which did not come over this node's own port.

        Parameters
        ----------
        origin
            Its origin, in words.
        relay
            The id of the member that passes everything on.
        """
        if not self.may_greet:
            carrier.cut()
            return
        task = asyncio.create_task(self._greet(carrier, origin, relay))
        self.guests.add(task)
        task.add_done_callback(self.guests.discard)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        carrier = TcpCarrier(reader, writer)
        try:
            ca = await self._strangers.hear(carrier)
        except (OSError, AinetError) as exc:  # a TimeoutError is one
            self._log.info("A connection from %s came to nothing: %s", address, exc)
            await give_up(carrier)
            return
        await self._greet(carrier, address, stranger=ca)

    async def _greet(
        self, carrier: Carrier, address: str, relay: str | None = None, *, stranger: x509.Certificate | None = None
    ) -> None:
        try:
            if stranger is not None:
                await self._strangers.greet(carrier, stranger, address)
            else:
                stream = SecureStream(carrier, self._context(), server_side=True, peer="the other device")
                await self._table.establish(stream, address, relay=relay)
        except PeerUnreachable as exc:
            self._log.info("A connection from %s came to nothing: %s", address, exc.message)
        except AinetError as exc:
            self._log.warning("A connection from %s was refused: %s", address, exc.message)
