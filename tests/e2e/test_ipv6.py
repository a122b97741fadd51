"""A local network that has no IPv4 any more: devices find each other anew, over IPv6."""

from __future__ import annotations

import pytest
from support.lan import POSSIBLE, lan_nodes, wait_for
from support.nodes import alive

pytestmark = [
    pytest.mark.skipif(not POSSIBLE, reason="network namespaces need root and iproute2"),
    pytest.mark.timeout(300),
]
NAMES = ("tower", "laptop")


def path(nodes, name, other):
    return nodes.peer(name, other).path or ""


def test_devices_that_have_only_ipv6_addresses_from_now_on_are_linked_over_those(jupyter_dirs, tmp_path):
    with lan_nodes(tmp_path, *NAMES, threads=1, memory="1GB") as nodes:
        wait_for(lambda: path(nodes, "tower", "laptop").startswith(("10.77.", nodes.lan.hosts["tower"])))
        for i, name in enumerate(NAMES, 1):
            nodes.lan.ip(name, "-4", "addr", "flush", "dev", "eth0")
            nodes.lan.ip(name, "addr", "add", f"fd77::{i}/64", "dev", "eth0", "nodad")
        for name, other in (NAMES, NAMES[::-1]):
            wait_for(lambda name=name, other=other: "fd77::" in path(nodes, name, other), 60)
            assert nodes.reached(name, other) == "direct"
            assert any("fd77::" in address for address in nodes.peer(name, other).addresses)
        nodes.shared("tower", "plan")["over"] = "IPv6"
        wait_for(lambda: dict(nodes.shared("laptop", "plan")) == {"over": "IPv6"})
        families = [nodes.family(name) for name in NAMES]
    assert not [process for family in families for process in alive(family)]
