"""llama.cpp's own quantisation of a file."""

from __future__ import annotations

import ctypes
import re
from typing import TYPE_CHECKING

import numpy as np
from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.errors import ModelError, NotEnough
from ainet.models.gguf_values import TENSOR_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from ainet.quantising.formats import Format

#: Bytes of rows that llama.cpp holds at once while it converts them.
BUFFERS = 256 << 20
ERROR_LEVEL, CONTINUED = 4, 5  # of `enum ggml_log_level`
_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\]\s+(\S+)\s+- \[")
_CHANGED = re.compile(r"-> +[\d.]+ MiB \((\w+)\)")
_TYPE_IDS = {kind.name.lower(): number for number, kind in TENSOR_TYPES.items()}


class _Log:
    """What llama.cpp says while it works: tensors as they come, and the reason of a failure."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self.types: dict[str, int] = {}
        self.errors: list[str] = []
        self._progress = progress
        self._line, self._tensor = "", ""
        self._is_error = False

    def receive(self, level: int, text: bytes, _data: object) -> None:
        """Take a piece of a line."""
        self._is_error = level == ERROR_LEVEL or (level == CONTINUED and self._is_error)
        self._line += text.decode(errors="replace")
        if found := _TENSOR.search(self._line):
            self._tensor = found[3]
            self._progress(int(found[1]), int(found[2]))
            self._line = self._line[found.end() :]
        if found := _CHANGED.search(self._line):
            self.types[self._tensor] = _TYPE_IDS[found[1].lower()]
        if self._line.endswith("\n"):
            if self._is_error and self._line.strip("=\n "):
                self.errors.append(self._line.strip())
            self._line = ""


def new_types(source: Path, wanted: Format, *, importance: bool) -> dict[str, int]:
    """Return the types (ggml's numbers) that tensors of `source` would change to, by their names; nothing is written.

    Raises
    ------
    ModelError
        If llama.cpp cannot convert the file, with its reason.
    """
    ones = {"": np.ones(1, np.float32)} if importance else {}
    return _run(source, None, wanted, importance=ones)


def quantise(
    source: Path,
    target: Path,
    wanted: Format,
    *,
    threads: int,
    importance: Mapping[str, NDArray[np.float32]],
    notes: Mapping[str, str],
    progress: Callable[[int, int], None],
) -> None:
    """Write `source` in another format.

    Parameters
    ----------
    importance
        Importance of the columns of tensors, float32, by the names of the tensors; may be empty.
    notes
        Keys and texts (up to 127 bytes) to write into the file.
    progress
        Called with the number of a tensor and of all.

    Raises
    ------
    ModelError
        If llama.cpp cannot, with its reason.
    NotEnough
        If the disk is full.
    """
    _run(source, target, wanted, threads=threads, importance=importance, notes=notes, progress=progress)


def _run(
    source: Path,
    target: Path | None,
    wanted: Format,
    *,
    importance: Mapping[str, NDArray[np.float32]],
    threads: int = 1,
    notes: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, int]:
    log = _Log(progress)
    callback = C.llama_log_callback(log.receive)
    params = C.llama_model_quantize_default_params()
    params.ftype, params.nthread = wanted.number, threads
    params.allow_requantize, params.dry_run = True, target is None
    params.max_buf_size = BUFFERS
    if importance:
        entries = (C.llama_model_imatrix_data * (len(importance) + 1))()  # the last one has no name
        for entry, (name, values) in zip(entries, importance.items(), strict=False):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
    overrides = (C.llama_model_kv_override * (len(notes or {}) + 1))()  # the last one has no key
    for override, (key, text) in zip(overrides, (notes or {}).items(), strict=False):
        override.tag, override.key = C.LLAMA_KV_OVERRIDE_TYPE_STR, key.encode()
        override.value.val_str = text.encode()
    params.kv_overrides = overrides
    C.llama_backend_init()
    C.llama_log_set(callback, ctypes.c_void_p(0))
    try:
        failed = C.llama_model_quantize(str(source).encode(), str(target or "").encode(), ctypes.byref(params))
    finally:
        C.llama_log_set(C.llama_log_callback(), ctypes.c_void_p(0))
    if failed and any("iostream error" in line for line in log.errors):
        raise NotEnough(f"{target} cannot be written. Is the disk full?")
    if failed:
        reason = log.errors[-1].rpartition("quantize: ")[2].rstrip(".") if log.errors else "it gave no reason"
        raise ModelError(f"llama.cpp cannot write {source.name} as {wanted.name}: {reason}.")
    return log.types
