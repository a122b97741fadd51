"""Loading a stage's shard, and how fast it then is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.segments import Segment
from ainet.stages.sessions.drafts import MAX_DRAFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ainet.models.shards import Shard
    from ainet.stages.llama.embedding import Embedding
    from ainet.stages.protocol.spec import StageSpec

#: Tokens that are computed to see how fast a stage is.
PROBES = 4


def load(spec: StageSpec, shard: Shard, aborted: Callable[[float], bool]) -> Llama:
    """Return the shard in llama.cpp, as the specification wants it; loading ends when `aborted` answers True."""
    return Llama(
        shard.path,
        hidden_out=not shard.is_last,
        n_ctx=spec.n_ctx,
        n_ubatch=spec.n_ubatch,
        n_slots=spec.n_slots,
        n_outputs=max(spec.sessions, MAX_DRAFT + 1),
        threads=spec.threads,
        gpu=spec.gpu,
        exact=spec.exact,
        aborted=aborted,
    )


def probe(llama: Llama, embedding: Embedding | None, *, is_first: bool, with_logits: bool) -> float:
    """Return the time of one token (s), measured before anybody asks.

    Parameters
    ----------
    embedding
        Looks up the token, where the stage does that itself.
    is_first, with_logits
        Whether it is given tokens rather than hidden states; whether it computes logits.
    """
    token = np.zeros(1, np.int32)
    rows: NDArray[Any] = token if is_first else np.full((1, llama.n_embd), 0.01, np.float32)
    times = []
    for position in range(PROBES):
        begun = time.perf_counter()
        if embedding is not None:
            rows = embedding.look_up(token)
        llama.decode(rows, [Segment(0, position, 1, int(with_logits))])
        llama.synchronize()
        times.append(time.perf_counter() - begun)
    llama.clear()
    return min(times)
