"""How much is tried: everything, or a share of it in the fast loop (`make quick`)."""

from __future__ import annotations

import os

#: The share of examples, and of mutations, that the fast loop tries.
SHARE = 10


def examples(most: int) -> int:
    """Return how many examples of at most this number are tried."""
    return most // SHARE if os.environ.get("AINET_QUICK") else most
