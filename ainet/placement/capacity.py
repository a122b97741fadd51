"""The input of a plan."""

from __future__ import annotations

import msgspec


class NodeCapacity(msgspec.Struct, frozen=True, kw_only=True):
    """The capacity of a node for a pipeline, now.

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
