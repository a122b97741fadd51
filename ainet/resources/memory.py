"""Amounts of memory: the device's own, and its GPU's."""

from __future__ import annotations

import msgspec


class Memory(msgspec.Struct, frozen=True):
    """Bytes of memory of a device, and of its GPU."""

    host: int = 0
    gpu: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.host + other.host, self.gpu + other.gpu)

    def __sub__(self, other: Memory) -> Memory:
        return Memory(self.host - other.host, self.gpu - other.gpu)

    def helps(self, lacking: Memory) -> bool:
        """Whether it has some of what `lacking` has less than nothing of."""
        return (self.host > 0 > lacking.host) or (self.gpu > 0 > lacking.gpu)

    @property
    def lacks(self) -> bool:
        """Whether one of the two is less than nothing."""
        return self.host < 0 or self.gpu < 0
