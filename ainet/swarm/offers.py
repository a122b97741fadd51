"""What a node gives to the members of its swarm, in its signed log ``offers``; between members nothing is charged."""

from __future__ import annotations

import msgspec

LOG = "offers"
#: The kinds of offers: layers of models, and workers for the asker's own code.
STAGES, WORKERS = "stages", "workers"


class Offer(msgspec.Struct, frozen=True):
    """What is given, within the owner's caps.

    Attributes
    ----------
    memory
        Bytes, all that is given together.
    threads
        Most that are used.
    gpu
        Whether a GPU is given, too.
    """

    memory: int
    threads: int
    gpu: bool = False
