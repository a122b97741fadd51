"""The GPU of this device: whether llama.cpp can use one, its memory, and its speed."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import msgspec

from ainet.errors import UsageError

if TYPE_CHECKING:
    import logging

#: Drivers may take their time when they are used for the first time (s).
ASKED = 120.0
HOW = "docs/gpus.md says how llama.cpp is built for one. Or start the node with --no-gpu."


class Gpu(msgspec.Struct, frozen=True):
    """A GPU.

    Attributes
    ----------
    name, description
        Such as ``CUDA0`` and ``NVIDIA H200``.
    free, total
        Bytes of its memory.
    speed
        Bytes of weights that it reads in a second, decoding.
    """

    name: str
    description: str
    free: int
    total: int
    speed: float


class _Found(msgspec.Struct):
    """What a process of its own found: see `ainet.stages.llama.gpu_report`."""

    backends: list[str]
    gpu: Gpu | None


async def find_gpu(log: logging.Logger) -> Gpu:
    """Return the GPU that llama.cpp uses on this device. A process of its own opens it, and lets it go.

    Raises
    ------
    UsageError
        llama.cpp was built without a backend for GPUs, or finds none, or fails to use it.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "ainet.stages.llama.gpu_report",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), ASKED)
    except TimeoutError:
        raise UsageError(f"llama.cpp did not find out within {ASKED:.0f} s which GPU there is. {HOW}") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        found = msgspec.json.decode(out, type=_Found)
    except msgspec.DecodeError:
        log.warning("llama.cpp cannot use a GPU: %s", errors.decode(errors="replace"))
        last = (errors.decode(errors="replace").strip().splitlines() or ["no reason was given"])[-1]
        raise UsageError(f"llama.cpp cannot use this device's GPU ({last[:300]}). {HOW}") from None
    if found.gpu is None:
        able = [name for name in found.backends if name not in ("CPU", "BLAS", "RPC")]
        if not able:
            raise UsageError(f"--gpu is set, but this llama.cpp was built for processors only. {HOW}")
        raise UsageError(
            f"--gpu is set, but llama.cpp, built with {', '.join(able)}, finds no GPU here. Is its driver installed, "
            f"and may this user use it? {HOW}"
        )
    return found.gpu
