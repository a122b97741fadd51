"""A node's decision on another one's wishes for a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ainet.errors import UsageError
from ainet.placement.rollback import MOST
from ainet.stages.protocol.spec import EPOCH_BYTES, EXACT_UBATCH

if TYPE_CHECKING:
    from ainet.api.node import Caps
    from ainet.models.manifest import Manifest
    from ainet.stages.protocol.spec import StageSpec

MAX_UBATCH = 2048
MAX_SESSIONS = 32
MAX_QUEUE = 1000
MAX_KEPT = 1 << 24


def admitted(spec: StageSpec, manifest: Manifest, caps: Caps) -> StageSpec:
    """Hold wishes against the model and the owner's caps.

    Returns
    -------
    StageSpec
        The spec that may be loaded: not more threads than the owner gives.

    Raises
    ------
    CannotSplit
        If the model has no such stage.
    UsageError
        If context, chunk or epoch make no sense, or a GPU is wanted that is not given.
    """
    manifest.check_range(spec.first_layer, spec.last_layer)
    if len(spec.epoch) != EPOCH_BYTES or not 1 <= spec.n_stages <= manifest.n_layers:
        raise UsageError(f"A pipeline of {spec.n_stages} stages is not possible.")
    if not (1 <= spec.n_ctx <= manifest.n_ctx_train and 1 <= spec.n_ubatch <= MAX_UBATCH):
        raise UsageError(f"A context of {spec.n_ctx} tokens in chunks of {spec.n_ubatch} is not possible.")
    if spec.exact and spec.n_ubatch > EXACT_UBATCH:
        raise UsageError(f"Answers are exact in chunks of at most {EXACT_UBATCH} tokens, not of {spec.n_ubatch}.")
    if spec.gpu and spec.exact:
        raise UsageError("Answers of a GPU are not exact: a row's result depends on those beside it.")
    if spec.gpu and not caps.gpu:
        raise UsageError("This device gives no GPU (`ainet up --gpu`).")
    if not 0 <= spec.rollback <= (MOST if manifest.split.rolls_back and not spec.exact else 0):
        raise UsageError(f"{spec.rollback} tokens cannot be taken back out of the states of this model's layers.")
    if not 0 <= spec.n_devices <= spec.n_stages:
        raise UsageError(f"{spec.n_devices} devices cannot have {spec.n_stages} stages.")
    return msgspec.structs.replace(
        spec,
        threads=max(1, min(spec.threads, caps.threads)),
        sessions=max(1, min(spec.sessions, MAX_SESSIONS)),
        queue=max(0, min(spec.queue, MAX_QUEUE)),
        kept_tokens=max(0, min(spec.kept_tokens, MAX_KEPT)),
    )
