"""Bandwidths: a link that is too slow to be measured counts as slow, and keeps no other one from being measured."""

from __future__ import annotations

import asyncio
import logging

from support.swarms import devices, until

from ainet.errors import PeerUnreachable
from ainet.links.bandwidths import Bandwidths
from ainet.links.request import PROBE_BYTES

LOG = logging.getLogger("bandwidths")


class Cable:
    """A link whose peer needs this long for a probe."""

    latency = None
    peer_name = "peer"

    def __init__(self, seconds: float) -> None:
        self.closed, self.asked = asyncio.Event(), 0
        self._seconds = seconds

    async def request(self, _message, **limits):
        self.asked += 1
        if self._seconds < 0:
            raise PeerUnreachable("gone")
        await asyncio.sleep(min(self._seconds, limits["timeout"]))


async def test_a_real_link_is_measured_once_in_a_while(tmp_path):
    async with devices(tmp_path, "desk", "laptop") as (desk, laptop):
        await until(lambda: desk.links.open_link(laptop.id))
        link = desk.links.open_link(laptop.id)
        bandwidths = Bandwidths(LOG)
        assert bandwidths.known(link) is None
        measured = await bandwidths.measure(link, 60.0)
        assert measured > 1e6
        assert await bandwidths.measure(link, 60.0) == measured == bandwidths.known(link)


async def test_slow_links_are_known_to_be_slow_and_hold_nobody_up():
    bandwidths = Bandwidths(LOG)
    slow, fast, lost = [Cable(60.0) for _ in range(3)], Cable(0.001), Cable(-1.0)
    links = [*slow, lost, fast]
    for _ in range(8):
        await bandwidths.measure_all(links, 60.0, 0.4)
    assert all(1 <= cable.asked <= 2 for cable in slow)  # one may be cut short, but not every time
    assert all(0 < bandwidths.known(cable) < PROBE_BYTES / 0.1 for cable in slow)
    assert bandwidths.known(fast) > max(bandwidths.known(cable) for cable in slow)
    assert bandwidths.known(lost) is None
    slow[0].closed.set()
    await bandwidths.measure(slow[1], 60.0)
    assert bandwidths.known(slow[0]) is None  # nobody asks for it any more


async def test_links_are_measured_one_after_the_other():
    bandwidths = Bandwidths(LOG)
    cable = Cable(0.05)
    both = await asyncio.gather(*(bandwidths.measure(cable, 60.0) for _ in range(4)))
    assert cable.asked == 1
    assert len(set(both)) == 1
