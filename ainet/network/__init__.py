"""Links between the members of a swarm, and how a device becomes one."""

from ainet.network.documents import Documents
from ainet.network.interfaces import own_loopback
from ainet.network.leases import Leases
from ainet.network.link import PeerLink
from ainet.network.links import Links
from ainet.network.logs import Logs
from ainet.network.member_state import MemberState
from ainet.network.messages import Request
from ainet.network.pairing import Invitation, Joined, Pairing

__all__ = [
    "Documents",
    "Invitation",
    "Joined",
    "Leases",
    "Links",
    "Logs",
    "MemberState",
    "Pairing",
    "PeerLink",
    "Request",
    "own_loopback",
]
