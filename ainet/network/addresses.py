"""Addresses: "host:port" texts, and the book of where members were last seen."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from ainet.errors import UsageError
from ainet.identity.files import write_private
from ainet.network.frames import MAX_HINTS, Hint
from ainet.network.interfaces import host_addresses

if TYPE_CHECKING:
    from pathlib import Path

MAX_ADDRESSES = 12  # of one member
TOLD_ADDRESSES = 4  # of one member, to others
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
        msg = f"{text[:140]!r} is not an address. Write host:port, for example 192.168.1.20:4711."
        raise UsageError(msg)
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


class _Book(msgspec.Struct):
    port: int = 0
    hints: list[Hint] = []


class AddressBook:
    """Where members listen, as they or others told, and this node's own port. Kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, dict[str, float]] = {}
        try:
            book = msgspec.json.decode(path.read_bytes(), type=_Book)
        except (OSError, msgspec.DecodeError):
            book = _Book()  # only hints: members tell theirs again
        self.port = book.port
        for hint in book.hints:
            self.learn(hint, hint.seen)

    def learn(self, hint: Hint, now: float) -> None:
        """Note a member's address, unless a newer note exists."""
        if not can_be_dialled(hint.address):
            return
        known = self._seen.setdefault(hint.id, {})
        if known.get(hint.address, 0.0) < (seen := min(hint.seen, now)):
            known[hint.address] = seen
            for address in sorted(known, key=known.__getitem__)[:-MAX_ADDRESSES]:
                del known[address]

    def addresses(self, node_id: str) -> list[str]:
        """Return the member's addresses, the most recent first."""
        known = self._seen.get(node_id, {})
        return sorted(known, key=known.__getitem__, reverse=True)

    def last_seen(self, node_id: str) -> float | None:
        """Return when the member was last known to be reachable (unix seconds)."""
        return max(self._seen.get(node_id, {}).values(), default=None)

    def hints(self) -> list[Hint]:
        """Return the newest notes of each member, as many as one message may have."""
        found = [
            Hint(node, address, known[address])
            for node, known in self._seen.items()
            for address in sorted(known, key=known.__getitem__)[-TOLD_ADDRESSES:]
        ]
        return sorted(found, key=lambda hint: hint.seen)[-MAX_HINTS:]

    def keep_only(self, node_ids: set[str]) -> None:
        """Forget everybody else."""
        self._seen = {node: known for node, known in self._seen.items() if node in node_ids}

    def save(self) -> None:
        """Write the file."""
        write_private(self._path, msgspec.json.encode(_Book(self.port, self.hints())))
