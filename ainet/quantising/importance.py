"""An importance matrix: the mean square of what each column of a weight is multiplied with, while a text is read.

Formats of few bits put their precision where it counts. The graph's matrix products are seen by the scheduler's
evaluation callback; their inputs are read from memory, for which the beginning of ``struct ggml_tensor`` (ggml.h) must
be known. It is checked against ggml's own functions before anything is believed.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.errors import ModelError
from ainet.quantising.arrays import read_arrays, write_arrays
from ainet.stages.llama.dequantize import ggml_base

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

F32, I32 = 0, 26
PRODUCT, PRODUCT_OF_EXPERTS = b"MUL_MAT", b"MUL_MAT_ID"


class _Tensor(ctypes.Structure):
    """``struct ggml_tensor``, as far as its name."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("shape", ctypes.c_int64 * 4),
    ("strides", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offset", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


class Importance:
    """Sums up the squares of the inputs of all weights.

    Attributes
    ----------
    callback, user_data
        For `Llama`, on a processor. They are alive as long as this object.
    """

    def __init__(self) -> None:
        library = ctypes.PyDLL(str(ggml_base()))
        self._operation, self._get_name, self._nbytes = library.ggml_op_desc, library.ggml_get_name, library.ggml_nbytes
        for function, result in (
            (self._operation, ctypes.c_char_p),
            (self._get_name, ctypes.c_char_p),
            (self._nbytes, ctypes.c_size_t),
        ):
            function.restype, function.argtypes = result, [ctypes.c_void_p]
        self.callback = C.ggml_backend_sched_eval_callback(self._on_tensor)
        self.user_data: ctypes.c_void_p | None = None
        self._sums: dict[str, NDArray[Any]] = {}  # float64 of shape (matrices, columns)
        self._counts: dict[str, NDArray[Any]] = {}  # int64 of shape (matrices,)
        self._checked = False
        self._fault: BaseException | None = None

    def matrix(self) -> dict[str, NDArray[np.float32]]:
        """Return the means by the names of tensors, float32 of shape (matrices * columns,).

        Experts that no token chose count as if all of their columns were equal.

        Raises
        ------
        ModelError
            The inputs of this model could not be read.
        """
        if self._fault is not None or not self._sums:
            raise ModelError(
                f"The importance of this model's weights cannot be measured: {self._fault or 'no products'}."
            )
        return {
            name: np.where(self._counts[name][:, None] > 0, sums / np.maximum(self._counts[name][:, None], 1), 1.0)
            .astype(np.float32)
            .ravel()
            for name, sums in self._sums.items()
        }

    def keep(self, path: Path) -> None:
        """Keep what was summed up."""
        sums = {f"sums {name}": array for name, array in self._sums.items()}
        write_arrays(path, sums | {f"counts {name}": array for name, array in self._counts.items()})

    def take_up(self, path: Path) -> bool:
        """Go on with what `keep` kept; returns False where that is missing or damaged."""
        kept = read_arrays(path)
        for name, array in (kept or {}).items():
            kind, _, tensor = name.partition(" ")
            (self._sums if kind == "sums" else self._counts)[tensor] = array
        return kept is not None

    def _on_tensor(self, address: int, ask: bool, _data: object) -> bool:
        """Answer llama.cpp: whether a tensor is of interest (`ask`), or, once it was computed, whether to go on."""
        try:
            operation = self._operation(address)
            if operation not in (PRODUCT, PRODUCT_OF_EXPERTS):
                return not ask
            product = _Tensor.from_address(address)
            if not self._checked:
                self._check(address, product)
            weights, inputs = product.src[0].contents, product.src[1].contents
            if not weights.name.endswith(b".weight") or inputs.type != F32:
                return not ask
            if not ask:
                self._add(weights, inputs, product.src[2].contents if operation == PRODUCT_OF_EXPERTS else None)
        except Exception as exc:  # it must not pass through llama.cpp
            self._fault = exc
            return False
        return True

    def _check(self, address: int, product: _Tensor) -> None:
        """Raise `ModelError` unless the structure is as it is read here."""
        sources = [ctypes.addressof(product.src[i].contents) for i in range(2)]
        for place in (address, *sources):
            tensor = _Tensor.from_address(place)
            rows = tensor.shape[1] * tensor.shape[2] * tensor.shape[3]
            if self._get_name(place) != tensor.name or (tensor.type == F32 and self._nbytes(place) < 4 * rows):
                raise ModelError("this llama.cpp keeps its tensors in another way")
        self._checked = True

    def _add(self, weights: _Tensor, inputs: _Tensor, experts: _Tensor | None) -> None:
        matrices, name = weights.shape[2], weights.name.decode()
        squares = np.square(_values(inputs, np.float32), dtype=np.float64)
        columns = squares.shape[-1]
        sums = self._sums.setdefault(name, np.zeros((matrices, columns)))
        counts = self._counts.setdefault(name, np.zeros(matrices, np.int64))
        if experts is not None:
            chosen = _values(experts, np.int32)[0, 0]  # (tokens, experts of a token)
            rows = np.broadcast_to(squares[0], (*chosen.shape, columns))
            np.add.at(sums, chosen.ravel(), rows.reshape(-1, columns))
            counts += np.bincount(chosen.ravel(), minlength=matrices)
            return
        # Several inputs may share a matrix, as the heads of a group share their keys.
        grouped = squares.reshape(squares.shape[0], matrices, -1, columns)
        sums += grouped.sum(axis=(0, 2))
        counts += grouped.shape[0] * grouped.shape[2]


def _values(tensor: _Tensor, kind: type[np.float32 | np.int32]) -> NDArray[np.float32 | np.int32]:
    """Return a view of a tensor in memory; its shape is ggml's, backwards."""
    shape, strides = tuple(tensor.shape)[::-1], tuple(tensor.strides)[::-1]
    size = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + np.dtype(kind).itemsize - 1
    raw = (ctypes.c_uint8 * size).from_address(tensor.data)
    return np.ndarray(shape, kind, raw, strides=strides)
