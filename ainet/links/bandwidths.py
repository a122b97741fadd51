"""The bandwidth of each link (bytes a second), measured when somebody asks."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ainet.errors import AinetError
from ainet.links.request import PROBE_BYTES, Probe

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence

    from ainet.links.link import PeerLink

PROBE_SECONDS = 5.0


class Bandwidths:
    """Measures links, and remembers what was measured.

    Parameters
    ----------
    log
        For bandwidths that cannot be measured.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._measured: dict[PeerLink, tuple[float, float]] = {}
        self._lock = asyncio.Lock()

    def known(self, link: PeerLink) -> float | None:
        """Return what was measured last (bytes a second)."""
        return self._measured[link][1] if link in self._measured else None

    async def measure(self, link: PeerLink, age: float, seconds: float = PROBE_SECONDS) -> float | None:
        """Return bytes a second, measured at most `age` seconds ago; None where it cannot be measured.

        A link that needs more than `seconds` is at most as fast as that.
        """
        async with self._lock:  # one after the other: they may share a cable
            self._measured = {one: known for one, known in self._measured.items() if not one.closed.is_set()}
            begun = time.monotonic()
            if link in self._measured and begun - self._measured[link][0] < age:
                return self._measured[link][1]
            try:
                async with asyncio.timeout(seconds):
                    await link.request(Probe(PROBE_BYTES), timeout=2 * seconds)
            except TimeoutError:
                way = 0.0
            except AinetError as exc:
                self._log.info("The bandwidth to %s is not known: %s", link.peer_name, exc.message)
                return None
            else:
                way = link.latency or 0.0
            bandwidth = PROBE_BYTES / max(time.monotonic() - begun - way, 1e-6)
            self._measured[link] = (begun, bandwidth)
            return bandwidth

    async def measure_all(self, links: Sequence[PeerLink], age: float, seconds: float) -> None:
        """Measure the links, for this long at most: what is not reached is measured the next time."""
        try:
            async with asyncio.timeout(seconds):
                for link in sorted(links, key=lambda one: one in self._measured):
                    await self.measure(link, age, seconds / 3)
        except TimeoutError:
            self._log.info("Not every bandwidth could be measured within %.0f s.", seconds)
