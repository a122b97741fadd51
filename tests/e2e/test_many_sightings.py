"""A local network full of nodes, or of somebody who pretends that it is: only this many are kept in mind."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.lan import POSSIBLE, Lan, enter
from support.swarms import until
from zeroconf import IPVersion, ServiceInfo, Zeroconf

from ainet.links.discovery import SERVICE, Announcement, Discovery

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="network namespaces need root and iproute2")
IDS = [letter * 52 for letter in "abcde"]
MOST = 3


@pytest.fixture
def lan():
    with Lan(f"am{os.getpid() % 10000}", "desk", "crowd") as lan:
        for name in lan.names:
            lan.ip(name, "-6", "addr", "flush", "dev", "eth0")  # nothing can be sent from a new one for a second
        yield lan


@pytest.fixture
def network(lan):
    """Return what does work on one of two devices, in a thread whose network is the device's."""
    threads = {name: ThreadPoolExecutor(1, initializer=enter, initargs=(lan.namespace(name),)) for name in lan.names}
    yield lambda name, work: threads[name].submit(work).result()
    for one in threads.values():
        one.shutdown()


@pytest.fixture
def crowd(network):
    """Somebody who may announce what it wants."""
    zeroconf = network("crowd", lambda: Zeroconf(ip_version=IPVersion.V4Only))
    yield zeroconf
    zeroconf.close()


def service(node_id, port, **options):
    told = {"id": node_id, "swarm": "0" * 32, "v": "1"}
    name = f"{node_id[:16]}.{SERVICE}"
    return ServiceInfo(
        SERVICE, name, port, properties=told, parsed_addresses=["10.77.0.2"], server="crowd.local.", **options
    )


def test_the_number_of_sightings_has_a_limit_and_those_that_are_known_are_followed(network, crowd):

    async def watch():
        changed = []
        own = Announcement("z" * 52, "1" * 32, ("10.77.0.1",), 4711)
        discovery = Discovery(lambda: own, changed.append, lambda _: False, logging.getLogger("ainet.tests"), most=MOST)

        def ports():
            return {one.id: one.addresses[0] for one in discovery.sightings()}

        await discovery.start()
        try:
            for node_id in IDS[:MOST]:
                await asyncio.to_thread(crowd.register_service, service(node_id, 1000), cooperating_responders=True)
            await until(lambda: len(ports()) == MOST)
            for node_id in IDS[MOST:]:
                await asyncio.to_thread(crowd.register_service, service(node_id, 1000), cooperating_responders=True)
            await asyncio.to_thread(crowd.update_service, service(IDS[0], 2000))  # this is heard last
            await until(lambda: ports().get(IDS[0]) == "10.77.0.2:2000")
            assert ports() == dict.fromkeys(IDS[:MOST], "10.77.0.2:1000") | {IDS[0]: "10.77.0.2:2000"}
            assert {one.id for one in changed} == set(IDS[:MOST])
            # Who leaves makes room.
            await asyncio.to_thread(crowd.unregister_service, service(IDS[0], 2000))
            await until(lambda: IDS[0] not in ports())
            await asyncio.to_thread(crowd.update_service, service(IDS[-1], 2000))
            await until(lambda: len(ports()) == MOST)
            assert set(ports()) - set(IDS[:MOST])
        finally:
            await discovery.stop()

    network("desk", lambda: asyncio.run(watch()))


def test_who_goes_without_a_word_is_forgotten_and_noticed_when_it_is_back(lan, network, crowd):
    first, second = (service(node_id, 1000, host_ttl=3) for node_id in IDS[:2])

    async def watch():
        changed, linked = [], {IDS[1]}
        own = Announcement("z" * 52, "1" * 32, ("10.77.0.1",), 4711)
        log = logging.getLogger("ainet.tests")
        discovery = Discovery(lambda: own, changed.append, linked.__contains__, log, look=0.2, patience=1000)

        def seen():
            return {one.id for one in discovery.sightings()}

        await discovery.start()
        try:
            for one in (first, second):
                await asyncio.to_thread(crowd.register_service, one, cooperating_responders=True)
            await until(lambda: seen() == set(IDS[:2]))
            lan.cut("crowd")
            await until(lambda: seen() == {IDS[1]}, 20)  # a link tells better whether somebody is there
            linked.clear()
            await until(lambda: not seen(), 20)
            lan.heal("crowd")
            await until(lambda: seen() == set(IDS[:2]), 20)
            assert [one.id for one in changed].count(IDS[0]) == 2
        finally:
            await discovery.stop()

    network("desk", lambda: asyncio.run(watch()))
