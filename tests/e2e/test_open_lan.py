"""Nodes that begin on loopback and are opened to the local network later, by what makes or takes a ticket."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.lan import POSSIBLE, Lan, LanNodes, wait_for
from support.nodes import alive
from zeroconf import IPVersion, Zeroconf

from ainet.config import CONFIG_FILE
from ainet.links.discovery import SERVICE, read_sighting

pytestmark = [
    pytest.mark.skipif(not POSSIBLE, reason="network namespaces need root and iproute2"),
    pytest.mark.timeout(300),
]
NAMES = ("tower", "laptop")
LISTEN = "0A"  # as the kernel writes it
LOOPBACK = {"0100007F"}
EVERYWHERE = {"00000000", "0" * 32}  # 0.0.0.0 and ::


@pytest.fixture
def nodes(jupyter_dirs, tmp_path):
    """Two nodes on one network, neither of which is open to it."""
    with Lan(f"ao{os.getpid() % 10000}", *NAMES) as lan:
        nodes = LanNodes(lan, tmp_path)
        families = []
        try:
            for name in NAMES:
                (tmp_path / name).mkdir(mode=0o700)
                nodes.run(name, "up", "--name", name, "--threads", "1", "--memory", "1GB")
                families += nodes.family(name)
            yield nodes
        finally:
            nodes.close()
            for name in NAMES:
                nodes.python(name, "-m", "ainet", "down")
    assert not alive(families)


def listening(nodes, name, port):
    """Return the addresses on which the device listens on this port, as the kernel writes them."""
    network = Path(f"/proc/{nodes.family(name)[0].pid}/net")
    lines = [line.split() for table in ("tcp", "tcp6") for line in (network / table).read_text().splitlines()[1:]]
    return {columns[1][:-5] for columns in lines if columns[3] == LISTEN and columns[1].endswith(f":{port:04X}")}


def announced(nodes, name, seen_by, patience):
    """Return what another device on the network hears of the node within this time (ms)."""
    node_id = nodes.client(name, lambda node: node.status()).node.id

    def look():
        zeroconf = Zeroconf(ip_version=IPVersion.V4Only)
        try:
            return zeroconf.get_service_info(SERVICE, f"{node_id[:16]}.{SERVICE}", patience)
        finally:
            zeroconf.close()

    info = nodes.within(seen_by, look)
    return info and read_sighting(info)


@pytest.mark.parametrize(
    ("giving", "taking", "kind"), [("invite", "join", "member"), ("introduce", "accept", "contact")]
)
def test_a_ticket_opens_a_node_to_the_network(nodes, giving, taking, kind):
    ports = {}
    for name in NAMES:
        address = nodes.client(name, lambda node: node.status()).node.address
        ports[name] = int(address.rpartition(":")[2])
        assert address == f"127.0.0.1:{ports[name]}"
        assert listening(nodes, name, ports[name]) == LOOPBACK
    assert announced(nodes, "tower", "laptop", 1500) is None

    ticket = nodes.json("tower", giving, "--lan")["ticket"]
    assert listening(nodes, "laptop", ports["laptop"]) == LOOPBACK
    nodes.run("laptop", taking, ticket, "--lan")
    for name, other in (NAMES, NAMES[::-1]):
        assert listening(nodes, name, ports[name]) <= EVERYWHERE  # the port is the same
        assert listening(nodes, name, ports[name])
        sighting = announced(nodes, name, other, 10_000)
        assert sighting is not None
        assert f"{nodes.lan.hosts[name]}:{ports[name]}" in sighting.addresses
        assert json.loads((nodes.folder / name / CONFIG_FILE).read_text())["AinetConfig"]["lan"] is True
        wait_for(lambda name=name, other=other: nodes.reached(name, other) == "direct")
        assert nodes.peer(name, other).kind == kind
        assert f"{nodes.lan.hosts[other]}:{ports[other]}" in nodes.peer(name, other).addresses
    # Once more changes nothing.
    nodes.run("tower", giving, "--lan")
    assert listening(nodes, "tower", ports["tower"]) <= EVERYWHERE
    assert nodes.reached("laptop", "tower") == "direct"
