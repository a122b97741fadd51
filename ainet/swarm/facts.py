"""Names under which a node tells its swarm about itself, in its signed feeds; `ainet.api.swarm` has the types."""

from __future__ import annotations

#: The feed of what a device is and holds: ``device``, ``models``, ``stages``, ``load``.
CAPABILITIES = "capabilities"
#: The feed of what it gives to the members of its swarm; between members nothing is charged.
GIFTS = "offers"
#: The gifts: layers of models, and workers for the asker's own code.
STAGES, WORKERS = "stages", "workers"
