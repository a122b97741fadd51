"""The stages of a model in this process, and the logits that come out of them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ainet.models.shards import ShardStore
from ainet.models.tensors import TensorStore
from ainet.stages.llama.embedding import Embedding
from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.segments import Segment
from support.tiny_models import N_VOCAB

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

N_CTX = 256
CHUNK = 64
#: Two prompt chunks that reach beyond the windows and the sparse attention of the tiny models, then single tokens.
STEPS = (CHUNK, 40, *[1] * 8)


class Pipeline:
    """The stages of one model in this process, loaded once each; all sizes are in tokens."""

    def __init__(
        self, folder: Path, path: Path, *, n_ctx: int = N_CTX, chunk: int = CHUNK, steps: Sequence[int] = STEPS
    ) -> None:
        self.n_ctx, self.chunk, self.steps = n_ctx, chunk, steps
        self.store = TensorStore(folder)
        self.manifest = self.store.register(path)
        self.shards = ShardStore(self.store)
        self.loaded: dict[tuple[int, int], Llama] = {}

    def stage(self, first: int, last: int) -> Llama:
        if (first, last) not in self.loaded:
            shard = self.shards.assemble(self.manifest, first, last)
            self.loaded[first, last] = Llama(
                shard.path, hidden_out=not shard.is_last, n_ctx=self.n_ctx, n_ubatch=self.chunk
            )
        return self.loaded[first, last]

    def logits(self, *cuts: int, kept: int = 0) -> NDArray[np.float32]:
        """Return the logits after every step but the first `kept`, whose tokens are there, cut at these layers."""
        ranges = [(a, b - 1) for a, b in pairwise((0, *cuts, self.manifest.n_layers))]
        stages = [self.stage(*layers) for layers in ranges]
        embedding = Embedding(self.shards.assemble(self.manifest, *ranges[0])) if cuts else None
        for stage in stages:
            stage.keep(0, sum(self.steps[:kept]))
        found, position = [], sum(self.steps[:kept])
        for size in self.steps[kept:]:
            tokens = ((np.arange(position, position + size) * 7919) % N_VOCAB).astype(np.int32)
            x: Any = tokens if embedding is None else embedding.look_up(tokens)
            for stage in stages:
                x = stage.decode(x, [Segment(0, position, size, 1)])
            found.append(stages[-1].logits().copy())
            position += size
        if embedding is not None:
            embedding.close()
        return np.array(found)

    def close(self) -> None:
        for stage in self.loaded.values():
            stage.close()
        self.store.close()
