"""Listening for connections, of which only this many may be unproved at once.

`asyncio.Server` leaks a connection that arrives while it is closed (github.com/python/cpython/issues/109564); a
pairing listener is closed at just such moments.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from ainet.wire.address import is_wildcard, join_address
from ainet.wire.carrier import CHUNK

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, str], Awaitable[None]]

#: So a socket for both kinds of addresses names those that are IPv4.
IPV4_IN_IPV6 = "::ffff:"
ACCEPT_PAUSE = 1.0  # seconds after the system had no file descriptor left


class Listener:
    """A listening socket, and the connections that came over it.

    Parameters
    ----------
    serve
        Called with each connection and the address that it comes from; it counts until this returns.
    limit
        Connections that may be served at once; more are turned away.
    """

    def __init__(
        self,
        serve: Serve,
        *,
        limit: int,
        log: logging.Logger,
    ) -> None:
        self.port = 0
        self._serve = serve
        self._limit = limit
        self._log = log
        self._socket: socket.socket | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """Whether there are connections."""
        return bool(self._connections)

    async def open(self, host: str, port: int) -> None:
        """Listen; a wildcard means all addresses. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        # "*" means what "0.0.0.0" means: the owner chose it.
        host = "0.0.0.0" if is_wildcard(host) and ":" not in host else host  # noqa: S104
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, where = found[0]
        both = host == "::" and socket.has_dualstack_ipv6()
        self._socket = socket.create_server((str(where[0]), port), family=family, backlog=100, dualstack_ipv6=both)
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]
        loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Stop listening; the connections go on."""
        if self._pause is not None:
            self._pause.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def stop(self) -> None:
        """Stop listening, and end the connections."""
        self.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self) -> None:
        if self._socket is None:
            return
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as exc:
            self._log.warning("A connection cannot be accepted: %s", exc)
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            self._pause = loop.call_later(ACCEPT_PAUSE, loop.add_reader, self._socket, self._accept)
            return
        if len(self._connections) >= self._limit:
            self._log.warning("Too many devices connect at once: one is turned away.")
            connection.close()
            return
        task = asyncio.create_task(self._connected(connection))
        self._connections.add(task)
        task.add_done_callback(lambda done: self._ended(done, connection))

    async def _connected(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(CHUNK, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            host, port, *_ = connection.getpeername()
            peer = join_address(host.removeprefix(IPV4_IN_IPV6), port)
            connection.setblocking(False)
            # asyncio does so only for sockets that it made itself; without, a short frame may wait 40 ms.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection)
        except OSError:
            connection.close()  # it is gone already
            return
        await self._serve(reader, asyncio.StreamWriter(transport, protocol, reader, loop), peer)

    def _ended(self, task: asyncio.Task[None], connection: socket.socket) -> None:
        self._connections.discard(task)
        if task.cancelled():
            connection.close()
        elif error := task.exception():
            self._log.error("Serving a new connection failed.", exc_info=error)
