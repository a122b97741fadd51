"""A plan, and what it is made of."""

from __future__ import annotations

import msgspec


class NodeCapacity(msgspec.Struct, frozen=True, kw_only=True):
    """What one node can give to a pipeline now.

    Attributes
    ----------
    node, name
        Node id and name.
    memory
        Bytes that stages may still take.
    threads
        Threads that stages may use.
    speed
        Bytes of weights that one thread reads in a second: those of this model, if it ran here before.
    measured
        Whether it did.
    latencies
        Seconds to other nodes (by id), one way, as far as they are known.
    bandwidths
        Bytes a second to other nodes (by id), as far as they are known.
    workers
        Most stages that the node can host; None means as many as memory allows.
    models
        Digests of the models that it holds completely.
    gpu
        Whether layers may go to a GPU.
    """

    node: str
    name: str
    memory: int
    threads: int
    speed: float
    measured: bool = False
    latencies: dict[str, float] = {}
    bandwidths: dict[str, float] = {}
    workers: int | None = None
    models: list[str] = []
    gpu: bool = False


class PlannedStage(msgspec.Struct, frozen=True, kw_only=True):
    """Layers `first_layer` to `last_layer` (0-based, inclusive) on one node, with the memory (bytes) they take.

    `seconds` is the predicted time of a token in this stage.
    """

    node: str
    name: str
    first_layer: int
    last_layer: int
    memory: int
    threads: int
    gpu: bool
    reason: str
    seconds: float = 0.0


class LeftOut(msgspec.Struct, frozen=True):
    """A node that gets no layers, and why."""

    name: str
    reason: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The ordered stages of a model, its context window (tokens), and the reason in one sentence.

    `seconds` is the predicted time of a token: of reading all weights once, each stage's after the other's, and of the
    way between them.
    """

    model: str
    name: str
    n_ctx: int
    n_ubatch: int
    stages: list[PlannedStage]
    why: str
    seconds: float
    left_out: list[LeftOut] = []
