"""What a node says, for tests that care about a part of it."""

from __future__ import annotations

from typing import Any

from ainet.api.node import Caps, CertificateState, NodeState

CAPS = Caps(memory=2000, threads=2, disk=3000)


def node_state(**parts: Any) -> NodeState:
    """Return the state of a node with these parts."""
    usual = {
        "name": "desk",
        "id": "abc",
        "version": "1",
        "data_dir": "/data",
        "address": None,
        "pid": 1,
        "started": 0.0,
        "pss_bytes": 1,
        "caps": CAPS,
        "reserved": CAPS,
        "received_bytes": 0,
        "certificate": CertificateState(60.0, holds_ca=True, problem=None),
        "url": "http://127.0.0.1:1/",
    }
    return NodeState(**usual | parts)
