"""Forwarders: ports of this device that lead to ports of other nodes, where those cannot be reached directly."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ainet.errors import AinetError
from ainet.links.channels import splice
from ainet.links.frames import ToPort
from ainet.wire.address import is_url, split_address
from ainet.wire.carrier import TcpCarrier
from ainet.wire.interfaces import machine, own_loopback
from ainet.wire.listener import Listener

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable

    from ainet.links.link import PeerLink
    from ainet.links.link_table import LinkTable

LOOPBACK = "127.0.0.1"
MAX_CONNECTIONS = 256  # through one forwarder
PROBE_SECONDS = 1.0  # in which a direct way must answer
REMEMBER_SECONDS = 10.0  # for which the answer counts


class Forwarders:
    """Reaches TCP ports of members, wherever they are.

    A port must have been exposed by its node (`Channels.expose`). What travels is encrypted as all of a link is, and by
    the two programs themselves.

    Parameters
    ----------
    table
        The open links.
    connect
        Returns a link to a member.
    log
        For connections that come to nothing.
    """

    def __init__(self, table: LinkTable, connect: Callable[[str], Awaitable[PeerLink]], log: logging.Logger) -> None:
        self._table = table
        self._connect = connect
        self._log = log
        self._open: dict[tuple[str, int, str, int], Listener] = {}
        self._opening = asyncio.Lock()
        self._answers: dict[str, tuple[float, bool]] = {}

    async def route(self, node_id: str, host: str, port: int) -> tuple[str, int]:
        """Return where to connect to reach `port` of `host`, an address of the node: there, or at a forwarder here."""
        if node_id == self._table.identity.id or await self._is_near(node_id, host):
            return host, port
        return await self.forward(node_id, port)

    async def forward(self, node_id: str, port: int, *, host: str = LOOPBACK, local_port: int = 0) -> tuple[str, int]:
        """Return the address of a forwarder to `port` of the node, on this device.

        Parameters
        ----------
        host, local_port
            The address on which it listens; port 0 stands for any.

        Raises
        ------
        OSError
            It cannot listen there.
        """
        key = (node_id, port, host, local_port)
        async with self._opening:
            listener = self._open.get(key)
            if listener is None:

                async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _address: str) -> None:
                    await self._serve(TcpCarrier(reader, writer), node_id, port)

                listener = Listener(serve, limit=MAX_CONNECTIONS, log=self._log)
                await listener.open(host, local_port)
                self._open[key] = listener
        return host, listener.port

    async def mirror(self, node_id: str, port: int) -> None:
        """Make `port` of the node's own loopback address (`own_loopback`) lead to it on this device, too.

        Where it does so anyway, as both nodes share a machine, nothing is done.

        Raises
        ------
        AinetError
            The node cannot be reached, or this system has no further loopback addresses.
        """
        if node_id == self._table.identity.id or (await self._connect(node_id)).machine == machine():
            return
        host = own_loopback(node_id)
        try:
            await self.forward(node_id, port, host=host, local_port=port)
        except OSError as exc:
            raise AinetError(f"Nothing can listen on {host}:{port} on this device: {exc.strerror or exc}.") from exc

    async def close(self, node_id: str, port: int) -> None:
        """Close every forwarder to `port` of the node."""
        for key in [key for key in self._open if key[:2] == (node_id, port)]:
            await self._open.pop(key).stop()

    async def stop(self) -> None:
        while self._open:
            _, listener = self._open.popitem()
            await listener.stop()

    async def _serve(self, carrier: TcpCarrier, node_id: str, port: int) -> None:
        try:
            channel = self._table.channels.open(node_id, ToPort(port))
        except AinetError as exc:
            self._log.info("A connection to port %d of %s came to nothing: %s", port, node_id[:8], exc.message)
            carrier.cut()
            return
        await splice(carrier, channel)

    async def _is_near(self, node_id: str, host: str) -> bool:
        """Whether the node's own port answers at `host`: then its other ports do, too."""
        for address in self._table.known_addresses(node_id):
            if not is_url(address) and split_address(address)[0] == host:
                when, answer = self._answers.get(address, (0.0, False))
                if time.monotonic() - when > REMEMBER_SECONDS:
                    answer = await _answers(address)
                    self._answers[address] = (time.monotonic(), answer)
                if answer:
                    return True
        return False


async def _answers(address: str) -> bool:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            _, writer = await asyncio.open_connection(*split_address(address))
    except OSError:
        return False
    writer.close()
    return True
