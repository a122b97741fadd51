"""The compiled `watch.c`, which answers llama.cpp in place of Python."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

#: Set to anything to use Python where C is there, too.
FORCE_PYTHON = "AINET_PYTHON_CALLBACK"
#: The compiled `watch.c`, beside its source. Python would take a name that ends with ``.so`` for a module of its own.
LIBRARY = Path(__file__).with_name("watch.bin")


class Watch(ctypes.Structure):
    """``struct watch`` of `watch.c`."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("nbytes", ctypes.c_void_p),
        ("get", ctypes.c_void_p),
        ("wanted", ctypes.c_char_p),
        ("target", ctypes.c_void_p),
        ("capacity", ctypes.c_size_t),
        ("written", ctypes.c_size_t),
        ("seen", ctypes.c_int),
    )


@cache
def native_library() -> ctypes.CDLL | None:
    """Return the compiled callback, or None where it is missing, of another version, or not wanted."""
    if os.environ.get(FORCE_PYTHON):
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.watch_size.restype = ctypes.c_size_t
        return library if library.watch_size() == ctypes.sizeof(Watch) else None
    except (OSError, AttributeError):
        return None
