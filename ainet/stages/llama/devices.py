"""The devices that llama.cpp was built for and finds. Asking for one opens it, which may take hundreds of megabytes."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

import llama_cpp
from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.errors import NotEnough
from ainet.stages.llama.dequantize import ggml_base
from ainet.units import show_bytes

#: ``enum ggml_backend_dev_type``: processors, graphics processors with memory of their own, and with the host's.
PROCESSOR, GPU, SHARED_GPU = 0, 1, 2


class FoundDevice(NamedTuple):
    """A device, and its free and whole memory in bytes."""

    name: str
    description: str
    free: int
    total: int
    handle: int


def _library() -> ctypes.CDLL:
    folder = Path(llama_cpp.__file__).parent / "lib"
    path = next(path for path in folder.glob("*ggml.*") if path.stem in ("libggml", "ggml"))
    library = ctypes.CDLL(str(path))
    for name, result in (
        ("ggml_backend_reg_get", ctypes.c_void_p),
        ("ggml_backend_reg_name", ctypes.c_char_p),
        ("ggml_backend_dev_get", ctypes.c_void_p),
        ("ggml_backend_dev_name", ctypes.c_char_p),
        ("ggml_backend_dev_description", ctypes.c_char_p),
        ("ggml_backend_dev_type", ctypes.c_int),
        ("ggml_backend_reg_count", ctypes.c_size_t),
        ("ggml_backend_dev_count", ctypes.c_size_t),
    ):
        getattr(library, name).restype = result
    for name in ("ggml_backend_reg_get", "ggml_backend_dev_get"):
        getattr(library, name).argtypes = [ctypes.c_size_t]
    for name in ("reg_name", "dev_name", "dev_description", "dev_type"):
        getattr(library, f"ggml_backend_{name}").argtypes = [ctypes.c_void_p]
    library.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, *[ctypes.POINTER(ctypes.c_size_t)] * 2]
    library.ggml_backend_dev_memory.restype = None
    return library


def backends() -> list[str]:
    """Return the names of the backends that this llama.cpp was built with, such as ``CUDA`` and ``CPU``."""
    library = _library()
    handles = (library.ggml_backend_reg_get(i) for i in range(library.ggml_backend_reg_count()))
    return [library.ggml_backend_reg_name(handle).decode() for handle in handles]


def find_gpu() -> FoundDevice | None:
    """Return the first GPU, one with memory of its own where there is any; None without one."""
    C.llama_backend_init()
    library = _library()
    handles = [library.ggml_backend_dev_get(i) for i in range(library.ggml_backend_dev_count())]
    kinds = {handle: library.ggml_backend_dev_type(handle) for handle in handles}
    able = [handle for kind in (GPU, SHARED_GPU) for handle in handles if kinds[handle] == kind]
    if not able:
        return None
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    library.ggml_backend_dev_memory(able[0], ctypes.byref(free), ctypes.byref(total))
    name, description = (
        getattr(library, f"ggml_backend_dev_{what}")(able[0]).decode() for what in ("name", "description")
    )
    return FoundDevice(name, description, free.value, total.value, able[0])


class _Override(ctypes.Structure):
    """``struct llama_model_tensor_buft_override``: a regular expression, and where tensors of such names lie."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def host_overrides(pattern: bytes) -> ctypes.Array[_Override]:
    """Return the overrides with which the tensors that match `pattern` lie in the host's memory."""
    library = _library()
    library.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    library.ggml_backend_dev_by_type.argtypes = [ctypes.c_int]
    base = ctypes.CDLL(str(ggml_base()))
    base.ggml_backend_dev_buffer_type.restype = ctypes.c_void_p
    base.ggml_backend_dev_buffer_type.argtypes = [ctypes.c_void_p]
    host = base.ggml_backend_dev_buffer_type(library.ggml_backend_dev_by_type(PROCESSOR))
    return (_Override * 2)(_Override(pattern, host))  # the last one has no pattern


def check_gpu(what: str, needed: int) -> None:
    """Raise `NotEnough` unless the GPU has `needed` bytes left for `what`, beside those of whatever else uses it."""
    gpu = find_gpu()
    free = 0 if gpu is None else gpu.free
    if gpu is None or free < needed:
        name = "a GPU, which is gone" if gpu is None else gpu.description
        raise NotEnough(
            f"{what} needs {show_bytes(needed)} of the memory of {name}, but only {show_bytes(free)} are free. Close "
            "other programs that use it, or start the node with less --gpu-memory.",
            needed=needed,
            free=free,
        )
