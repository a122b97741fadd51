"""The output of a shard's last layer, taken out of the graph while llama.cpp computes it.

The scheduler's evaluation callback hands it over and ends the graph there. A few lines of C answer it, where a compiler
was at hand when ainet was installed; otherwise Python does, which is slower and no different. Only libraries that ship
with llama-cpp-python are used, and no layout of a ggml structure is assumed.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.errors import ModelError
from ainet.stages.llama.dequantize import ggml_base
from ainet.stages.llama.native import Watch, native_library

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


class Watcher(Protocol):
    """Sees the tensors of a graph while they are computed: for ``llama_context_params``."""

    @property
    def callback(self) -> Any:
        """A ``ggml_backend_sched_eval_callback``."""

    @property
    def user_data(self) -> ctypes.c_void_p | None:
        """Its last argument."""


class _Ggml:
    """The three functions of libggml-base that read a tensor of a running graph."""

    def __init__(self) -> None:
        path = str(ggml_base())
        library = ctypes.CDLL(path)
        # Called for every node of a graph: releasing the interpreter's lock would take longer than the call.
        self.name = ctypes.PyDLL(path).ggml_get_name
        self.name.restype, self.name.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
        self.nbytes = library.ggml_nbytes
        self.nbytes.restype, self.nbytes.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
        self.get = library.ggml_backend_tensor_get
        self.get.restype = None
        self.get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]


class HiddenOutput:
    """The rows that leave a shard.

    Parameters
    ----------
    name
        Name of the tensor.
    n_embd
        Values of a row.
    native
        Whether C shall answer llama.cpp; None for wherever it can.

    Attributes
    ----------
    callback, user_data
        For ``llama_context_params``. They are alive as long as this object.
    """

    def __init__(self, name: str, n_embd: int, *, native: bool | None = None) -> None:
        self._n_embd = n_embd
        self._ggml = ggml = _Ggml()
        self._rows = np.empty((0, n_embd), np.float32)
        library = native_library() if native is None or native else None
        if native and library is None:
            raise ModelError("ainet was installed without a C compiler; its native callback is missing.")
        self.is_native = library is not None
        address = ctypes.c_void_p
        self._watch = Watch(
            *(ctypes.cast(function, address).value for function in (ggml.name, ggml.nbytes, ggml.get)), name.encode()
        )
        if library is not None:
            self.callback: Any = ctypes.cast(library.watch_tensor, C.ggml_backend_sched_eval_callback)
        else:
            self.callback = C.ggml_backend_sched_eval_callback(self._in_python(name.encode()))
        self.user_data = ctypes.cast(ctypes.pointer(self._watch), address)

    def begin(self, n: int) -> None:
        """Make room for `n` rows, before they are computed."""
        self._rows = np.empty((n, self._n_embd), np.float32)
        watch = self._watch
        watch.target, watch.capacity, watch.written, watch.seen = self._rows.ctypes.data, self._rows.nbytes, 0, 0

    def rows(self) -> NDArray[np.float32]:
        """Return the rows that were computed, of all micro-batches, float32 of shape (n, n_embd).

        Raises
        ------
        ModelError
            If llama.cpp did not compute just these.
        """
        watch = self._watch
        if watch.seen == 0:
            raise ModelError("This architecture does not name the output of its last layer; it cannot be split.")
        if watch.seen < 0 or watch.written != self._rows.nbytes:
            raise ModelError(f"llama.cpp did not compute the {len(self._rows)} rows that it was given.")
        return self._rows

    def _in_python(self, wanted: bytes) -> Callable[[int, bool, object], bool]:
        # llama.cpp asks for every node of the graph; local names keep one question under a microsecond.
        name: Callable[[int], bytes] = self._ggml.name
        nbytes, get, watch = self._ggml.nbytes, self._ggml.get, self._watch

        def on_tensor(tensor: int, ask: bool, _data: object) -> bool:
            if ask:
                return name(tensor) == wanted
            size = nbytes(tensor)
            if watch.seen < 0 or size > watch.capacity - watch.written:
                watch.seen = -1
                return False
            get(tensor, watch.target + watch.written, 0, size)
            watch.written += size
            watch.seen += 1
            return False  # the final norm and the output are left out

        return on_tensor
