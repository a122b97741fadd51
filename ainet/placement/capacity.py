"""The input of a plan."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ainet.resources.memory import Memory

#: Bytes of the device's own memory that a process takes which uses a GPU: 360 to 470 MB with CUDA, measured.
GPU_PROCESS = 500_000_000


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
    gpu_memory
        Bytes of its GPU's memory that stages may still take; 0 without one.
    gpu_speed
        Bytes of weights that the GPU reads in a second.
    gpu_measured
        Whether that was measured with this model.
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
    gpu_memory: int = 0
    gpu_speed: float = 0.0
    gpu_measured: bool = False

    @property
    def free(self) -> Memory:
        """The memory that stages may still take."""
        return Memory(self.memory, self.gpu_memory)

    def parts(self, *, exact: bool = False) -> list[Part]:
        """Return what can take layers on this node: its GPU, whose results are never exact, and its processors."""
        processors = Part(self, self.memory, self.threads, self.speed, self.measured)
        if exact or not (self.gpu_memory > 0 and self.gpu_speed > 0):
            return [processors]
        gpu = Part(self, self.gpu_memory, 1, self.gpu_speed, self.gpu_measured, gpu=True)
        if self.workers is not None and self.workers < 2:
            return [gpu]
        return [gpu, processors._replace(memory=max(0, self.memory - GPU_PROCESS))]


class Part(NamedTuple):
    """The processors of a node, or its GPU, as a place for layers.

    Attributes
    ----------
    capacity
        The node's.
    memory
        Bytes of the memory that the layers lie in.
    threads, speed, measured
        The threads that read weights, how many bytes a second each, and whether that was measured with the model.
    gpu
        Whether it is the GPU.
    """

    capacity: NodeCapacity
    memory: int
    threads: int
    speed: float
    measured: bool
    gpu: bool = False

    @property
    def node(self) -> str:
        """Node id."""
        return self.capacity.node

    @property
    def name(self) -> str:
        """Name of the node, and what of it."""
        return f"{self.capacity.name}'s GPU" if self.gpu else self.capacity.name
