"""Addresses: "host:port" texts, and the book of where members were last seen."""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

from ainet.errors import UsageError
from ainet.wire.interfaces import host_addresses

_WILDCARDS = {"", "0.0.0.0", "::", "*"}  # noqa: S104 — these are recognised, not bound


def join_address(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Return host and port of ``host:port``, ``[v6]:port`` or, with a default port, ``host``.

    Raises
    ------
    UsageError
        The text is no address.
    """
    text = text.strip()
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    number = default_port if not port else int(port) if re.fullmatch("[0-9]{1,5}", port) else None
    if number is None or number > 65535 or len(text) > 128 or not re.fullmatch(r"[\w.:%*-]*", host, re.ASCII):
        raise UsageError(f"{text[:140]!r} is not an address. Write host:port, for example 192.168.1.20:4711.")
    return host, number


def is_url(text: str) -> bool:
    """Tell whether `text` is the address of a Jupyter server."""
    return text.startswith(("http://", "https://"))


def can_be_dialled(text: str) -> bool:
    """Tell whether `text` is the address of one device."""
    try:
        if is_url(text):
            parts = urlsplit(text)
            return bool(parts.hostname) and parts.port != 0
        host, port = split_address(text)
    except (UsageError, ValueError):
        return False
    return bool(port) and not is_wildcard(host)


def is_wildcard(host: str) -> bool:
    """Tell whether listening on `host` means all addresses of the device."""
    return host in _WILDCARDS


def wildcard() -> str:
    """Return the address to listen on that means all addresses of this device, IPv6 included where it exists."""
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - the owner asked for it


def is_loopback(host: str) -> bool:
    """Tell whether `host` can be reached from this device only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def outward_host() -> str:
    """Return the address of this device on the network that leads outside, else any, else the loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # TEST-NET-1 (RFC 5737): choosing a route sends nothing.
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return next(iter(host_addresses()), "127.0.0.1")
