"""Options of the sockets between stages and requesters."""

from __future__ import annotations

import socket
from typing import Any

from ainet.timing import TIMING

#: Bytes that a sender may be ahead of its receiver's reading.
SOCKET_BUFFER = 1 << 20


def tune(sock: Any) -> None:
    """Send small frames at once, and notice within seconds when the other device vanished without a word.

    Keep-alive is answered by the other device's system, so a stage that computes for long does not count as gone.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def notice_vanished(sock: Any) -> None:
    """Give a connection up whose other end has vanished although something was sent to it: keep-alive rests then.

    Not for what is read slowly: where the other end makes no room for this long, that counts as vanished, too.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * TIMING.vanished))
