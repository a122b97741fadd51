"""What one stage of a pipeline is, as the node that planned it says."""

from __future__ import annotations

import msgspec

EPOCH_BYTES = 16


class StageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage of a pipeline is.

    Attributes
    ----------
    pipeline
        Name of the pipeline, unique in the swarm.
    epoch
        16 random bytes of this placement: a stage of an older one cannot connect.
    owner
        Node id of the requester; nobody else may ask this pipeline.
    model
        Digest of the model's manifest.
    first_layer, last_layer
        Layers of the stage, 0-based and inclusive.
    n_stages
        Stages of the whole pipeline.
    n_ctx
        Tokens of prompt and answer together.
    n_ubatch
        Rows that are processed at once.
    threads
        Threads of the stage.
    gpu
        Whether layers may go to a GPU.
    queue
        Most sessions that may wait.
    """

    pipeline: str
    epoch: bytes
    owner: str
    model: str
    first_layer: int
    last_layer: int
    n_stages: int
    n_ctx: int
    n_ubatch: int
    threads: int
    gpu: bool
    queue: int

    @property
    def max_payload(self) -> int:
        """Largest payload of a frame that carries no hidden states: the tokens of a prompt, or an error."""
        return max(4 * self.n_ctx, 1 << 16)
