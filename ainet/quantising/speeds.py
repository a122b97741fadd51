"""The speeds of the types of weights on this device, measured when somebody wants to know, and kept."""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec

from ainet.files import KeptFile
from ainet.models.gguf_values import TENSOR_TYPES
from ainet.quantising.process import QuantisingProcess

if TYPE_CHECKING:
    import logging
    from collections.abc import Collection
    from pathlib import Path

    from ainet.models.tensors import Progress
    from ainet.resources.allocator import Allocator

FILE = "type_speeds.json"
#: A speed is measured again after this time (s).
MAX_AGE = 30 * 86400.0
#: Bytes that measuring one type takes: weights in float32 at most, and a process.
MEMORY = 1_300_000_000


class _Measured(msgspec.Struct):
    """Bytes a second of one thread, for what and when; None where llama.cpp cannot compute with the type."""

    speed: float | None
    threads: int
    version: str
    at: float


class TypeSpeeds:
    """Bytes of weights that one of the node's threads reads in a second, by the names of types.

    Parameters
    ----------
    data_dir
        The node's data directory.
    allocator
        The memory of this node.
    threads
        The threads of a stage.
    log
        For what cannot be written.
    """

    def __init__(self, data_dir: Path, allocator: Allocator, threads: int, log: logging.Logger) -> None:
        self._data_dir, self._allocator, self._threads, self._log = data_dir, allocator, threads, log
        self._file = KeptFile(data_dir / FILE, log)
        self._measuring = asyncio.Lock()
        self._llama = version("llama-cpp-python")
        try:
            self._known = msgspec.json.decode(self._file.path.read_bytes(), type=dict[str, _Measured])
        except (FileNotFoundError, msgspec.DecodeError):
            self._known = {}

    async def get(self, kinds: Collection[str], progress: Progress = lambda _done, _total: None) -> dict[str, float]:
        """Return the speeds of types of weights, as far as llama.cpp computes with them; new ones are measured.

        Raises
        ------
        NotEnough
            There is no memory, or no space on disk, for measuring.
        """
        wanted = sorted(set(kinds) & {kind.name for kind in TENSOR_TYPES.values()})
        async with self._measuring:  # one after another: two at once would slow each other
            missing = [name for name in wanted if not self._is_known(name)]
            if missing:
                await self._measure(missing, progress)
        return {name: speed for name in wanted if (speed := self._known[name].speed) is not None}

    async def _measure(self, names: list[str], progress: Progress) -> None:
        with self._allocator.reserve("measuring formats", memory=MEMORY):
            async with QuantisingProcess(self._data_dir, self._log, self._threads) as process:
                found = await process.ask("speed", progress, kinds=names)
        now = time.time()
        for name, speed in found.items():
            self._known[name] = _Measured(speed, self._threads, self._llama, now)
        self._file.write(msgspec.json.encode(self._known))

    def _is_known(self, name: str) -> bool:
        known = self._known.get(name)
        return (
            known is not None
            and (known.threads, known.version) == (self._threads, self._llama)
            and 0 <= time.time() - known.at < MAX_AGE
        )

    async def flush(self) -> None:
        """Wait until everything is written."""
        await self._file.flush()
