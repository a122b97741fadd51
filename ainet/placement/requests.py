"""The requests for a plan to members."""

from __future__ import annotations

from ainet.links.request import Request
from ainet.placement.capacity import NodeCapacity


class DescribeNode(Request, frozen=True):
    """Ask what a node can give to a pipeline of this model now."""

    reply = NodeCapacity

    model: str
