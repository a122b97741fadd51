"""The speed of each type of weights on this device: what a model of such weights alone needs for a token."""

from __future__ import annotations

import ctypes
import time
from typing import TYPE_CHECKING

import numpy as np

from ainet.errors import ModelError
from ainet.models.gguf_values import F32, TENSOR_TYPES, Kind, TensorInfo, Value
from ainet.models.gguf_writer import header, write
from ainet.stages.llama.dequantize import ggml_base
from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.segments import Segment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: 270 million weights in the shape of Llama's layers: more than the caches of usual processors hold.
N_EMBD, N_FF, N_LAYERS, N_HEAD = 2048, 8192, 4, 16
#: Tokens that are timed, after the first; the quickest counts, since whatever else the device does adds to it.
TOKENS = 12
#: Rows that are quantised and then repeated.
ROWS = 16


def measure_speed(kind: int, threads: int, folder: Path, *, gpu: bool = False) -> float:
    """Return the bytes of weights of a type that one of `threads` threads reads in a second, decoding a token.

    Parameters
    ----------
    kind
        ggml's number of the type.
    folder
        For a model of 60 to 1,100 MB, which is removed.
    gpu
        Whether a GPU reads them, as one thread.

    Raises
    ------
    ModelError
        ggml does not write the type, or cannot compute with it.
    OSError
        The disk is full.
    """
    path = folder / f"speed-{kind}.gguf"
    try:
        nbytes = _write(path, kind)
        with Llama(path, hidden_out=True, n_ctx=256, n_ubatch=1, threads=threads, gpu=gpu) as llama:
            x = np.random.default_rng(0).standard_normal((1, N_EMBD)).astype(np.float32)
            seconds = []
            for position in range(TOKENS + 1):
                begin = time.perf_counter()
                llama.decode(x, [Segment(0, position, 1)])
                llama.synchronize()
                seconds.append(time.perf_counter() - begin)
    finally:
        path.unlink(missing_ok=True)
    return nbytes / (min(seconds[1:]) * threads)


def _write(path: Path, kind: int) -> int:
    """Write the model, and return the bytes of its layers' weights."""
    numbers = {
        "block_count": N_LAYERS,
        "context_length": 256,
        "embedding_length": N_EMBD,
        "feed_forward_length": N_FF,
        "attention.head_count": N_HEAD,
        "vocab_size": 32,
    }
    metadata = {
        "general.architecture": Value.of(Kind.STRING, "llama"),
        **{f"llama.{key}": Value.of(Kind.UINT32, value) for key, value in numbers.items()},
        "llama.attention.layer_norm_rms_epsilon": Value.of(Kind.FLOAT32, 1e-5),
        "tokenizer.ggml.model": Value.of(Kind.STRING, "no_vocab"),
    }
    shapes: list[tuple[str, tuple[int, ...], int]] = [
        ("token_embd.weight", (N_EMBD, 32), F32),
        ("output_norm.weight", (N_EMBD,), F32),
    ]
    for layer in range(N_LAYERS):
        for name, shape in (
            ("attn_norm", (N_EMBD,)),
            *((f"attn_{part}", (N_EMBD, N_EMBD)) for part in ("q", "k", "v", "output")),
            ("ffn_norm", (N_EMBD,)),
            ("ffn_gate", (N_EMBD, N_FF)),
            ("ffn_up", (N_EMBD, N_FF)),
            ("ffn_down", (N_FF, N_EMBD)),
        ):
            shapes.append((f"blk.{layer}.{name}.weight", shape, kind if len(shape) == 2 else F32))
    head, places, size = header(metadata, shapes)
    rows = {width: _rows(kind, width) for width in (N_EMBD, N_FF)}
    with path.open("wb") as file:
        write(file, head, ((place, _bytes(place, rows)) for place in places), size)
    return sum(place.nbytes for place in places if place.name.startswith("blk.") and len(place.shape) == 2)


def _rows(kind: int, width: int) -> bytes:
    """Return `ROWS` rows of random weights of a type, by ggml's own function."""
    values = (np.random.default_rng(1).standard_normal((ROWS, width)) / width**0.5).astype(np.float32)
    if kind == F32:
        return values.tobytes()
    importance = np.ones(width, np.float32)
    found = TENSOR_TYPES[kind]
    raw = ctypes.create_string_buffer(ROWS * width // found.block * found.nbytes)
    function = ctypes.CDLL(str(ggml_base())).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    written = function(kind, values.ctypes.data, raw, 0, ROWS, width, importance.ctypes.data)
    if written != len(raw):
        raise ModelError(f"ggml does not write weights of the type {found.name}.")
    return raw.raw


def _bytes(place: TensorInfo, rows: dict[int, bytes]) -> Iterator[bytes]:
    if len(place.shape) == 1 or place.name.startswith("token_embd"):
        yield np.ones(place.shape, np.float32).tobytes()
        return
    part = rows[place.shape[0]]
    for _ in range(place.nbytes // len(part)):
        yield part
