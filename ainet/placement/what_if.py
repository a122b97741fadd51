"""Plans for devices that are not there, such as a second laptop, or a better cable between those that are."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from ainet.errors import UsageError
from ainet.placement.capacity import NodeCapacity
from ainet.units import parse_bytes

#: The speed of a device's memory where the description has none (bytes a second, one thread).
USUAL_SPEED = 10e9
#: The same of its GPU, as a middling one of a few years ago has it.
USUAL_GPU_SPEED = 200e9
MAX_DEVICES = 64
MOST_LATENCY = 60_000.0  # ms

T = TypeVar("T")
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Latency = Annotated[float, msgspec.Meta(ge=0, le=MOST_LATENCY)]


class DescribedDevice(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A device as a file describes it.

    Attributes
    ----------
    name
        Its name.
    memory
        Memory for stages, such as ``"4GB"``.
    threads
        Threads that it gives.
    speed
        Weights that one thread reads in a second, such as ``"10GB"``.
    gpu_memory, gpu_speed
        Memory of its GPU for stages, and weights that the GPU reads in a second.
    latency_ms
        Milliseconds to other devices (by name), one way; or to all of them.
    bandwidth
        Bytes a second to other devices (by name), such as ``"10MB"``; or to all of them.
    """

    name: Name
    memory: str
    threads: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    speed: str = ""
    gpu_memory: str = ""
    gpu_speed: str = ""
    latency_ms: dict[Name, Latency] | Latency | None = None
    bandwidth: dict[Name, str] | str | None = None

    def capacity(self, names: list[str]) -> NodeCapacity:
        """Return what the device would give to a pipeline; `names` are all devices."""
        latencies = self._ways("latency", self.latency_ms, names)
        bandwidths = self._ways("bandwidth", self.bandwidth, names)
        return NodeCapacity(
            node=self.name,
            name=self.name,
            memory=parse_bytes(self.memory),
            threads=self.threads,
            speed=self._positive("speed", self.speed) if self.speed else USUAL_SPEED,
            gpu_memory=parse_bytes(self.gpu_memory) if self.gpu_memory else 0,
            gpu_speed=self._positive("GPU's speed", self.gpu_speed) if self.gpu_speed else USUAL_GPU_SPEED,
            latencies={name: ms / 1000 for name, ms in latencies.items()},
            bandwidths={name: self._positive("bandwidth", value) for name, value in bandwidths.items()},
        )

    def _ways(self, what: str, given: dict[str, T] | T | None, names: list[str]) -> dict[str, T]:
        """Return what is given for the way to each of the other devices."""
        if not isinstance(given, dict):
            return {} if given is None else dict.fromkeys(names, given)
        for unknown in set(given) - set(names):
            raise UsageError(f"The {what} from {self.name} to {unknown} is given, but there is no device {unknown}.")
        return given

    def _positive(self, what: str, text: str) -> float:
        value = parse_bytes(text)
        if value <= 0:
            raise UsageError(f"The {what} of {self.name} is {text}; it must be more than 0.")
        return value


class WhatIf(msgspec.Struct, forbid_unknown_fields=True):
    """The devices of a described network, the one that asks first."""

    devices: Annotated[list[DescribedDevice], msgspec.Meta(min_length=1, max_length=MAX_DEVICES)]

    def capacities(self) -> list[NodeCapacity]:
        """Return what the devices would give.

        Raises
        ------
        UsageError
            For two devices of one name, sizes that cannot be read, and ways to nowhere.
        """
        names = [device.name for device in self.devices]
        if len(set(names)) < len(names):
            raise UsageError("Two of the described devices have the same name.")
        return [device.capacity(names) for device in self.devices]


def described(value: Any) -> WhatIf:
    """Return the description in JSON that was read already.

    Raises
    ------
    UsageError
        If it is none.
    """
    try:
        return msgspec.convert(value, WhatIf)
    except msgspec.ValidationError as exc:
        raise UsageError(
            f"The description of devices is not understood: {exc}. Write "
            '{"devices": [{"name": "desk", "memory": "8GB", "threads": 4, "latency_ms": {"phone": 5}}, …]}.'
        ) from exc
