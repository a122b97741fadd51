"""Who this device is: its keys, its certificate, its swarm and that swarm's roster."""

from ainet.identity.credentials import Credentials, client_context, peer_id, server_context
from ainet.identity.identity import Admission, Identity
from ainet.identity.roster import Issued, Member, Revoked, Roster, SignedRoster

__all__ = [
    "Admission",
    "Credentials",
    "Identity",
    "Issued",
    "Member",
    "Revoked",
    "Roster",
    "SignedRoster",
    "client_context",
    "peer_id",
    "server_context",
]
