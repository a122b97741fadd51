"""What a node tells its swarm about itself, in its signed log ``capabilities``."""

from __future__ import annotations

import msgspec

LOG = "capabilities"


class DeviceFacts(msgspec.Struct, frozen=True):
    """A device and what its owner lets it give.

    Attributes
    ----------
    version
        Of its ainet.
    memory, disk, threads, gpu
        The owner's caps: bytes, bytes, threads, whether a GPU may be used.
    speed
        Bytes of weights that one thread reads in a second, measured.
    """

    version: str
    memory: int
    disk: int
    threads: int
    gpu: bool
    speed: float


class HeldModel(msgspec.Struct, frozen=True):
    """A model that is on the device; `digest` is None until its file was read whole."""

    name: str
    digest: str | None
    size: int | None
    layers: int | None


class HeldStage(msgspec.Struct, frozen=True):
    """Layers (0-based, inclusive) that are loaded on the device."""

    model: str
    first_layer: int
    last_layer: int


class Load(msgspec.Struct, frozen=True):
    """How busy the device is: reserved bytes, rounded to a tenth of the cap, so that small changes are not told."""

    memory: int
