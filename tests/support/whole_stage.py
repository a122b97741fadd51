"""A stage that holds a whole model, without Dask."""

from __future__ import annotations

import logging

from ainet.models.shards import ShardStore
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.spec import StageSpec
from ainet.stages.stage import Stage
from ainet.timing import TIMING
from support.smollm2 import CHUNK, N_CTX

EPOCH = b"e" * 16
#: A grammar without an end.
ENDLESS = SamplingParams(temperature=1.0, seed=1, grammar="root ::= [a-z ] root")


def whole(store, manifest, owner="o", timing=TIMING, **options):
    """Return a stage with a whole model, which was not started yet."""
    spec = StageSpec(
        pipeline="p",
        epoch=EPOCH,
        owner=owner,
        model=manifest.digest,
        first_layer=0,
        last_layer=manifest.n_layers - 1,
        n_stages=1,
        **{"n_ctx": N_CTX, "n_ubatch": CHUNK, "threads": 1, "gpu": False, "sessions": 1, "queue": 1, **options},
    )
    shard = ShardStore(store).assemble(manifest, 0, manifest.n_layers - 1)
    return Stage(spec, shard, logging.getLogger("stage"), timing=timing)
