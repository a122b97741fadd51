"""The addresses of the device itself."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import socket
import uuid
from pathlib import Path

import psutil

MOST = 8  # addresses that are told to others


def host_addresses() -> list[str]:
    """Return the addresses under which other devices may reach this one: IPv4 first, then IPv6 with a global scope."""
    stats = psutil.net_if_stats()
    found: list[str] = []
    for name, addresses in psutil.net_if_addrs().items():
        if name not in stats or not stats[name].isup:
            continue
        for address in addresses:
            if address.family in (socket.AF_INET, socket.AF_INET6):
                text = address.address.partition("%")[0]
                parsed = ipaddress.ip_address(text)
                # A link-local IPv6 address means something else on each interface of the other device.
                if not parsed.is_loopback and not (parsed.version == 6 and parsed.is_link_local):
                    found.append(text)
    return sorted(dict.fromkeys(found), key=lambda text: ":" in text)[:MOST]


def machine() -> str:
    """Return what tells apart devices that do not share their loopback addresses."""
    parts = [str(uuid.getnode())]
    with contextlib.suppress(OSError):  # Linux: each network namespace has a loopback of its own
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/net").readlink())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def own_loopback(node_id: str) -> str:
    """Return the loopback address that stands for this node everywhere: forwarders there, the real ports at home."""
    one, two = hashlib.sha256(node_id.encode()).digest()[:2]
    return f"127.77.{one}.{two}"
