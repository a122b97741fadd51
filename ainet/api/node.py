"""The node at a glance."""

from __future__ import annotations

from dataclasses import dataclass, field

from ainet.api.generate import PlacedStage
from ainet.api.swarm import MemberState
from ainet.api.verb import Nothing, Verb


@dataclass(frozen=True)
class Caps:
    """Amounts of what a device gives: memory, disk and its GPU's memory in bytes, and threads."""

    memory: int
    threads: int
    disk: int
    gpu_memory: int = 0

    @property
    def gpu(self) -> bool:
        """Whether layers may go to a GPU."""
        return self.gpu_memory > 0


@dataclass(frozen=True)
class CertificateState:
    """The certificate of this device.

    Attributes
    ----------
    days_left
        Days until it expires.
    holds_ca
        Whether this device can issue certificates itself.
    problem
        Why members do not accept it, in words.
    """

    days_left: float
    holds_ca: bool
    problem: str | None


@dataclass(frozen=True)
class NodeState:
    """The node of this device.

    Attributes
    ----------
    address
        The address for members (``host:port``); None when it listens nowhere.
    started
        Unix seconds.
    pss_bytes
        Memory of its server and its engine (proportional set size).
    caps, reserved
        The owner's caps, and the part of them that is in use.
    received_bytes
        Bytes of tensors that it has fetched from members since it started.
    url
        The address for this device's own processes.
    warnings
        What the owner should know, and do.
    native_callback
        Whether stages take hidden states out of llama.cpp by C, rather than by Python.
    gpu
        The GPU that stages may use, such as ``NVIDIA H200``.
    """

    name: str
    id: str
    version: str
    data_dir: str
    address: str | None
    pid: int
    started: float
    pss_bytes: int
    caps: Caps
    reserved: Caps
    received_bytes: int
    certificate: CertificateState
    url: str
    warnings: list[str] = field(default_factory=list)
    native_callback: bool = True
    gpu: str | None = None


@dataclass(frozen=True)
class WorkerState:
    """A worker process: its memory (bytes, PSS), the model and layers (first, last) that it holds, on a GPU or not."""

    pid: int
    memory: int
    model: str | None
    layers: list[int]
    gpu: bool = False


@dataclass(frozen=True)
class MemberWorkers(MemberState):
    """A member and its worker processes, as far as it describes them."""

    workers: list[WorkerState]


@dataclass(frozen=True)
class StageFigures:
    """The figures of one stage: bytes and frames sent to the next, seconds that one token took, buffers, calls.

    Attributes
    ----------
    buffers
        Bytes of llama.cpp's buffers, by kind.
    decodes
        The number of calls of llama.cpp.
    """

    pid: int
    first_layer: int
    last_layer: int
    bytes_sent: int
    frames_sent: int
    token_seconds: float
    buffers: dict[str, int]
    decodes: int = 0


@dataclass(frozen=True)
class PipelineStatus:
    """A model that this node has loaded.

    Attributes
    ----------
    received_bytes
        Bytes that each device fetched to load it, by name.
    idle
        Whether nobody uses it at the moment.
    stages
        The figures of its stages; none where they do not answer.
    """

    model: str
    placement: list[PlacedStage]
    received_bytes: dict[str, int]
    idle: bool
    stages: list[StageFigures]


@dataclass(frozen=True)
class NodeStatus:
    """The node, its members, and its pipelines."""

    node: NodeState
    members: list[MemberWorkers]
    pipelines: list[PipelineStatus]


status = Verb("status", "show the node, its members and what they hold", "GET", "status", Nothing, NodeStatus)
