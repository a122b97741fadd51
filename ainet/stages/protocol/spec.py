"""The description of a stage, by the node that planned it."""

from __future__ import annotations

from typing import Literal

import msgspec

EPOCH_BYTES = 16
SLOTS_OF_EXACT = 4
#: A kept prompt of a model with recurrent states counts for this many tokens more: what a state takes is spread over
#: them, so that all stages can keep the same prompts.
STATE_TOKENS = 512
#: Rows at once up to which a row's result does not depend on the others: more of them take another way through
#: llama.cpp's flash attention (GGML_FA_TILE_Q).
EXACT_UBATCH = 63
#: float32 changes nothing. float16 keeps 11 bits of each value; int8 has 8 bits, and a scale for each row.
Form = Literal["float32", "float16", "int8"]


class StageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The description of a stage of a pipeline.

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
        Whether the layers are on a GPU.
    experts_on_host
        Whether the processors compute the experts of layers that are on a GPU.
    n_devices
        Stages that compute at the same time, since those of one GPU take turns; 0: all of them.
    sessions
        Most sessions that are answered at the same time.
    queue
        Most sessions of each user that may wait.
    kept_tokens
        Tokens of earlier prompts whose keys and values may be kept, where memory allows.
    exact
        Whether an answer must not depend on which sessions share the stages, nor on what was kept of earlier ones.
    speculate
        Whether tokens are tried before they are drawn, where that is faster.
    hidden_states
        The form in which hidden states travel between stages.
    rollback
        Tokens that can be taken back out of the states of layers, where the architecture allows it: what is tried may
        be wrong.
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
    sessions: int
    queue: int
    kept_tokens: int = 0
    exact: bool = False
    speculate: bool = False
    hidden_states: Form = "float32"
    n_devices: int = 0
    experts_on_host: bool = False
    rollback: int = 0

    @property
    def n_slots(self) -> int:
        """Places for sessions in the KV caches: with `exact`, those that ended keep theirs until none runs."""
        return self.sessions * SLOTS_OF_EXACT if self.exact else self.sessions

    @property
    def max_payload(self) -> int:
        """Largest payload of a frame that carries no hidden states: the tokens of a prompt, or an error."""
        return max(4 * self.n_ctx, 1 << 16)
