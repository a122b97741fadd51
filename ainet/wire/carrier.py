"""Carriers: the byte streams that the TLS of a link runs over."""

from __future__ import annotations

import asyncio
import os
from typing import Protocol

from ainet.errors import PeerUnreachable
from ainet.timing import TIMING
from ainet.wire.address import is_url, split_address

CHUNK = 256 * 1024  # bytes that are read at once


class Carrier(Protocol):
    """A byte stream both ways, which need not be secret nor come from who it seems to come from."""

    @property
    def local_host(self) -> str:
        """The address of this end, as the other end's network knows it; empty when it has none."""

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""

    async def read(self) -> bytes:
        """Return the next bytes, at most `CHUNK`; none at the end. Raises `OSError` when the carrier broke."""

    def write(self, data: bytes) -> None:
        """Send `data`, soon."""

    async def drain(self) -> None:
        """Wait until more can be written. Raises `OSError` when the carrier broke."""

    def write_eof(self) -> None:
        """Say that nothing more will be written. Raises `OSError` when the carrier broke."""

    async def close(self) -> None:
        """Close once everything that was written has left. Raises `OSError` when the carrier broke."""

    def cut(self) -> None:
        """Close at once."""

    async def wait_closed(self) -> None:
        """Wait until nothing is left of a carrier that was cut. Raises `OSError` when it broke before."""


class TcpCarrier:
    """A TCP connection.

    Parameters
    ----------
    reader, writer
        As asyncio gives them, the reader with a limit of `CHUNK`.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._unread = b""

    def unread(self, data: bytes) -> None:
        """Have bytes that were read be read again, before all others."""
        self._unread = data

    @property
    def local_host(self) -> str:
        """The address of this end."""
        name = self._writer.get_extra_info("sockname")
        return str(name[0]) if name else ""

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return self._writer.transport.get_write_buffer_size()

    async def read(self) -> bytes:
        """Return the next bytes."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        return await self._reader.read(CHUNK)

    def write(self, data: bytes) -> None:
        """Send `data`, soon."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until more can be written."""
        await self._writer.drain()

    def write_eof(self) -> None:
        """Say that nothing more will be written."""
        self._writer.write_eof()

    async def close(self) -> None:
        """Close once everything that was written has left."""
        self._writer.close()
        await self._writer.wait_closed()

    def cut(self) -> None:
        self._writer.transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""
        await self._writer.wait_closed()


async def dial(address: str) -> Carrier:
    """Connect to "host:port", or to the Jupyter server at an ``https://`` or ``http://`` address.

    Raises
    ------
    PeerUnreachable
        With the reason.
    """
    try:
        async with asyncio.timeout(TIMING.dial):
            if is_url(address):
                from ainet.wire.websocket import connect

                return await connect(address)
            return TcpCarrier(*await asyncio.open_connection(*split_address(address), limit=CHUNK))
    except OSError as exc:  # a TimeoutError is one
        raise PeerUnreachable(f"{address}: {reason(exc) or f'no answer within {TIMING.dial:g} seconds'}") from exc
    except ValueError as exc:  # no host can be called so
        raise PeerUnreachable(f"{address}: that is no address ({exc})") from exc


def reason(exc: OSError) -> str:
    """Return why a connection broke, in words."""
    # asyncio puts an address where the system's words would be; a resolver's errors have numbers below 0.
    return os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror or str(exc)
