"""The address of a stage."""

from __future__ import annotations

import msgspec


class StageAddress(msgspec.Struct, frozen=True):
    """The address of a stage: its node, its host, the ports for the stage before it and for requesters (0: none)."""

    node: str
    host: str
    data_port: int
    session_port: int
    pid: int
