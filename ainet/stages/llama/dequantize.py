"""Weights of any type as numbers, by the functions of libggml-base that llama.cpp itself uses for single rows."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import llama_cpp

from ainet.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Types whose functions have other names than ``dequantize_row_TYPE``.
_NAMES = {"F16": "ggml_fp16_to_fp32_row", "BF16": "ggml_bf16_to_fp32_row"}


@cache
def ggml_base() -> Path:
    """Return the library of ggml that ships with llama-cpp-python."""
    return next((Path(llama_cpp.__file__).parent / "lib").glob("*ggml-base*"))


def dequantizer(kind: str) -> Callable[[bytes, int, int], object]:
    """Return the function that turns weights of a type, such as ``Q4_K``, into numbers.

    Its parameters are the weights, the address of as many float32 as there are values, and their number.

    Raises
    ------
    ModelError
        If ggml has none.
    """
    if kind == "F32":
        return lambda raw, target, n: ctypes.memmove(target, raw, 4 * n)
    usual = kind.lower()
    if usual.endswith("_k"):
        usual = usual[:-1] + "K"
    try:
        function = getattr(ctypes.PyDLL(str(ggml_base())), _NAMES.get(kind, f"dequantize_row_{usual}"))
    except AttributeError as exc:
        raise ModelError(f"Embeddings of the type {kind} cannot be looked up: this model cannot be split.") from exc
    function.argtypes, function.restype = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64], None
    found: Callable[[bytes, int, int], object] = function
    return found
