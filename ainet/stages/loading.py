"""Loading a stage's shard, and how fast it then is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.segments import Segment
from ainet.stages.sessions.drafts import most_outputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ainet.models.shards import Shard
    from ainet.stages.llama.embedding import Embedding
    from ainet.stages.protocol.spec import StageSpec

#: Attempts at each measurement of how fast a stage is.
PROBES = 4
#: Rows of a prompt at once that suit processors.
USUAL_CHUNK = 64
#: A longer chunk takes at most this part of the time for each of its rows, and is not tried where a usual one takes
#: longer than this (s).
WORTH, QUICK = 0.9, 0.5
#: Sessions with a row each, and the time that they take at most, in times of a single row, if rows are free.
MANY, FREE = 8, 1.25


def load(spec: StageSpec, shard: Shard, aborted: Callable[[float], bool]) -> Llama:
    """Return the shard in llama.cpp, as the specification wants it; loading ends when `aborted` answers True."""
    return Llama(
        shard.path,
        hidden_out=not shard.is_last,
        n_ctx=spec.n_ctx,
        n_ubatch=spec.n_ubatch,
        n_slots=spec.n_slots,
        n_outputs=most_outputs(spec.sessions) + 1,  # and one behind the end of a prompt
        threads=spec.threads,
        gpu=spec.gpu,
        experts_on_host=spec.experts_on_host,
        exact=spec.exact,
        rollback=spec.rollback,
        aborted=aborted,
    )


class Pace(NamedTuple):
    """How fast a stage is.

    Attributes
    ----------
    token_seconds
        Seconds of one token.
    chunk
        Rows of a prompt that are best computed at once.
    rows_are_free
        Whether rows beside others cost next to nothing, so that groups of sessions gain nothing.
    """

    token_seconds: float
    chunk: int
    rows_are_free: bool = False


def measure_pace(llama: Llama, embedding: Embedding | None, spec: StageSpec, shard: Shard) -> Pace:
    """Return how fast a stage is, measured before anybody asks.

    Parameters
    ----------
    embedding
        Looks up tokens, where the stage does that itself.
    """

    def seconds(rows: int, slots: int = 1, tries: int = PROBES) -> float:
        """Return the least time of `rows` of a prompt, or of one row of each of several sessions."""
        tokens = np.zeros(rows * slots, np.int32)
        x: NDArray[Any] = tokens if shard.is_first else np.full((len(tokens), llama.n_embd), 0.01, np.float32)
        times = []
        for attempt in range(tries):
            begun = time.perf_counter()
            if embedding is not None:
                x = embedding.look_up(tokens)
            llama.decode(x, [Segment(slot, attempt * rows, rows, int(shard.is_last)) for slot in range(slots)])
            llama.synchronize()
            times.append(time.perf_counter() - begun)
        llama.clear()
        return min(times)

    token = seconds(1)
    if not spec.gpu:
        return Pace(token, spec.n_ubatch)
    # Longer chunks make others wait longer: they must be worth while.
    long = min(spec.n_ubatch, spec.n_ctx // 2)
    short = min(USUAL_CHUNK, long)
    short_seconds = seconds(short, tries=2)
    is_worth = short_seconds < QUICK and seconds(long, tries=2) / long < WORTH * short_seconds / short
    many = min(llama.n_slots, MANY)
    are_free = many > 1 and seconds(1, many) < FREE * token
    return Pace(token, spec.n_ubatch if is_worth else short, are_free)
