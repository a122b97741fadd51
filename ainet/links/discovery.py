"""Discovery on the local network by multicast DNS (RFC 6762, RFC 6763): who is there, and where."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import socket
from typing import TYPE_CHECKING

import msgspec
from zeroconf import IPVersion, NonUniqueNameException, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from ainet.identity.keys import is_node_id
from ainet.links.frames import PROTOCOL
from ainet.tasks import Tasks
from ainet.wire.address import join_address
from ainet.wire.interfaces import MOST

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from zeroconf import Zeroconf

SERVICE = "_ainet._tcp.local."
ASK_TIMEOUT = 3000  # milliseconds for a node to tell its addresses
MAX_SIGHTINGS = 256
#: What a node tells of itself is known for this long (s); after that it must be there to tell it again.
KNOWN_SECONDS = 60
#: Nodes without a link are asked this often (s) whether they are still there. Every few times, those that had gone are
#: asked whether they are back.
LOOK_SECONDS = 15.0
LOOKS = 4


def swarm_hash(swarm: str) -> str:
    """Return what a node tells of its swarm: members recognise it, others learn nothing."""
    return hashlib.sha256(f"ainet-swarm:{swarm}".encode()).hexdigest()[:32]


class Sighting(msgspec.Struct, frozen=True):
    """A node on the local network, as it describes itself: unproved.

    Attributes
    ----------
    id
        Node id.
    swarm
        `swarm_hash` of its swarm.
    addresses
        The addresses on which it accepts links ("host:port").
    protocol
        The newest version of the peer protocol that it speaks.
    is_open
        Whether it deals with devices of which it knows nothing.
    """

    id: str
    swarm: str
    addresses: tuple[str, ...]
    protocol: int
    is_open: bool = False


class Announcement(msgspec.Struct, frozen=True):
    """A node's words on the local network; nothing private."""

    id: str
    swarm: str
    addresses: tuple[str, ...]
    port: int
    #: Whether it deals with devices of which it knows nothing.
    is_open: bool = False


class Discovery:
    """Announces this node on the local network and notices others.

    Parameters
    ----------
    announcement
        Returns what is announced at the moment.
    changed
        Called with each node that appears or changes, in the event loop.
    is_linked
        Whether there is a link to the node with this id, which then is there without asking.
    log
        For what cannot be announced.
    most
        Most nodes that are known at once.
    look
        Seconds between two looks for those who have no link.
    patience
        Milliseconds in which a node must tell its addresses.
    """

    def __init__(
        self,
        announcement: Callable[[], Announcement],
        changed: Callable[[Sighting], None],
        is_linked: Callable[[str], bool],
        log: logging.Logger,
        *,
        most: int = MAX_SIGHTINGS,
        look: float = LOOK_SECONDS,
        patience: int = ASK_TIMEOUT,
    ) -> None:
        self._most, self._pause, self._patience = most, look, patience
        self._announcement = announcement
        self._changed = changed
        self._is_linked = is_linked
        self._log = log
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._info: AsyncServiceInfo | None = None
        self._sightings: dict[str, Sighting] = {}  # by the service's name
        self._gone: set[str] = set()  # services whose nodes went without a word
        self._tasks = Tasks("A device on the local network could not be looked for", log)

    @property
    def active(self) -> bool:
        """Whether this node announces itself and looks for others."""
        return self._zeroconf is not None

    def sightings(self) -> list[Sighting]:
        """Return the nodes that are there now."""
        return list(self._sightings.values())

    def addresses(self, node_id: str) -> list[str]:
        """Return where the node with this id says that it is."""
        return [address for one in self._sightings.values() if one.id == node_id for address in one.addresses]

    async def start(self) -> None:
        """Announce this node and look for others. Without a network this waits for one."""
        try:
            self._zeroconf = AsyncZeroconf(ip_version=_ip_version())
        except OSError as exc:
            self._log.warning("Nobody can be looked for on the local network: %s", exc)
            return
        await self._announce()
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, handlers=[self._on_change])
        self._tasks.spawn(self._look_again(self._zeroconf.zeroconf))

    async def stop(self) -> None:
        await self._tasks.stop()
        if self._browser is not None:
            await self._browser.async_cancel()
        if self._zeroconf is not None:
            with contextlib.suppress(OSError):  # there may be no network left
                await self._zeroconf.async_unregister_all_services()
            await self._zeroconf.async_close()
            self._zeroconf = None
        self._sightings.clear()
        self._gone.clear()

    async def update(self) -> None:
        """Announce this node anew: its addresses, its port or its swarm have changed."""
        if self._zeroconf is None:
            await self.start()
            return
        try:
            await self._zeroconf.async_update_interfaces(ip_version=_ip_version())
        except OSError as exc:
            self._log.warning("The local network cannot be used: %s", exc)
        await self._announce()
        for name in self._gone:
            self._tasks.spawn(self._look(self._zeroconf.zeroconf, SERVICE, name))

    async def _announce(self) -> None:
        assert self._zeroconf is not None  # noqa: S101 - both callers have just seen it
        told = self._announcement()
        info = AsyncServiceInfo(
            SERVICE,
            f"{told.id[:16]}.{SERVICE}",
            parsed_addresses=list(told.addresses),
            port=told.port,
            properties={
                "id": told.id,
                "swarm": told.swarm,
                "v": str(PROTOCOL),
                **({"open": "1"} if told.is_open else {}),
            },
            server=f"ainet-{told.id[:16]}.local.",
            host_ttl=KNOWN_SECONDS,
        )
        try:
            # Without asking first whether the name is taken: it is made of this node's key.
            if self._info is None:
                await self._zeroconf.async_register_service(info, cooperating_responders=True)
            else:
                await self._zeroconf.async_update_service(info)
            self._info = info
        except (OSError, NonUniqueNameException) as exc:
            self._log.warning("This node cannot be announced on the local network: %s", exc)

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            self._sightings.pop(name, None)
            self._gone.discard(name)
        elif self._info is None or name != self._info.name:
            self._tasks.spawn(self._look(zeroconf, service_type, name))

    async def _look(self, zeroconf: Zeroconf, service_type: str, name: str) -> None:
        info = AsyncServiceInfo(service_type, name)
        if not await info.async_request(zeroconf, self._patience):
            if self._sightings.pop(name, None) is not None and len(self._gone) < self._most:
                self._gone.add(name)
            return
        self._gone.discard(name)
        sighting = read_sighting(info)
        if sighting is None or (len(self._sightings) >= self._most and name not in self._sightings):
            return
        if self._sightings.get(name) != sighting:
            self._sightings[name] = sighting
            self._changed(sighting)

    async def _look_again(self, zeroconf: Zeroconf) -> None:
        """Forget who has gone without a word, and see whether it is back: for an hour no other event tells."""
        for n in itertools.count():
            await asyncio.sleep(self._pause)
            names = [name for name, one in self._sightings.items() if not self._is_linked(one.id)]
            if n % LOOKS == 0:
                names += self._gone
            looks = (self._look(zeroconf, SERVICE, name) for name in names)
            for failed in await asyncio.gather(*looks, return_exceptions=True):
                if failed is not None:
                    self._log.warning("A device on the local network could not be looked for: %r", failed)


def read_sighting(info: AsyncServiceInfo) -> Sighting | None:
    """Return what a service says of itself; None when it is not what a node says."""
    told = {key: value or b"" for key, value in info.properties.items()}
    try:
        node, swarm, version = (told.get(key, b"").decode("ascii") for key in (b"id", b"swarm", b"v"))
    except UnicodeDecodeError:
        return None
    if not is_node_id(node) or len(swarm) > 64 or not (version.isdecimal() and len(version) < 6) or not info.port:
        return None
    hosts = info.parsed_scoped_addresses(IPVersion.All)[:MOST]
    is_open = told.get(b"open") == b"1"
    return Sighting(node, swarm, tuple(join_address(host, info.port) for host in hosts), int(version), is_open)


def _ip_version() -> IPVersion:
    return IPVersion.All if socket.has_ipv6 else IPVersion.V4Only
