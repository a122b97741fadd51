"""Tiny models of any architecture, with random weights: llama.cpp itself names the tensors that it wants.

Only metadata and optional tensors are written down here. The others are found by loading a file that lacks them:
llama.cpp names the tensor that is missing and the shape that it should have, without reading any data.
"""

from __future__ import annotations

import ctypes
import os
import re
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import gguf
import numpy as np
from llama_cpp import llama_cpp as C  # noqa: N812

from support.tiny_models import TOKEN_TYPES, TOKENS, add_value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MISSING = re.compile(r"tensor '([^']+)' not found")
_SHAPE = re.compile(r"tensor '([^']+)' has wrong shape; expected ([\d, ]+), got")
#: Their rows hold few values, or llama.cpp computes with them in full precision only.
_FULL_PRECISION = (
    "norm",
    ".bias",
    "conv",
    "ssm_",
    "_inp",
    "attn_sinks",
    "exp_probs",
    "shift",
    "rope_",
    "indexer.proj",
    "scale",
)
N_CTX = 512
ALIGNMENT = 32
#: Values from which on weights are made in their quantised form.
LARGE = 1_000_000


class Tiny(NamedTuple):
    """A tiny model.

    Attributes
    ----------
    architecture
        ``general.architecture``.
    metadata
        Keys after the architecture's name, besides the usual ones; None takes a usual one out.
    n_layers
        Layers, with those that predict further tokens.
    optional
        Tensors that llama.cpp does not insist on, after ``blk.N.``, with shapes in ggml's order; a kind of layers may
        follow the name: ``attn_gate.weight@recurrent``.
    outer
        The same outside the layers.
    tokenizer
        ``tokenizer.ggml.model``.
    """

    architecture: str
    metadata: Mapping[str, Any] = {}
    n_layers: int = 6
    optional: Mapping[str, tuple[int, ...]] = {}
    outer: Mapping[str, tuple[int, ...]] = {}
    tokenizer: str = "llama"


def write_tiny(path: Path, tiny: Tiny, *, seed: int | None = 0) -> Path:
    """Write the model with random weights; llama.cpp takes it. Without a seed, only their places are written."""
    shapes = _optional(tiny)
    while True:
        _write(path, tiny, shapes, None)
        reason = _refusal(path)
        if reason is None:
            break
        if found := _SHAPE.search(reason):
            shapes[found[1]] = _stripped([int(size) for size in found[2].split(",")])
        elif found := _MISSING.search(reason):
            shapes[found[1]] = _guess(shapes, found[1])
        else:
            raise ValueError(f"{tiny.architecture}: {reason}")
    if seed is not None:
        _write(path, tiny, shapes, np.random.default_rng(seed))
    return path


def _optional(tiny: Tiny) -> dict[str, tuple[int, ...]]:
    found = dict(tiny.outer)
    for key, shape in tiny.optional.items():
        name, _, kind = key.partition("@")
        for layer in range(tiny.n_layers):
            if not kind or _is_of(tiny, layer, kind):
                found[f"blk.{layer}.{name}"] = shape
    return found


def _is_of(tiny: Tiny, layer: int, kind: str) -> bool:
    """Whether a layer is of a kind: ``recurrent``, ``indexed`` (by an indexer of its own) or ``further`` (MTP)."""
    values, is_further = tiny.metadata, layer >= tiny.n_layers - tiny.metadata.get("nextn_predict_layers", 0)
    if kind == "further" or is_further:
        return is_further and kind == "further"
    if kind == "indexed":
        types = values.get("attention.indexer.types")
        long = values.get("context_length", 0) >= 1 << 20
        return bool(types[layer]) if types else not long or layer < 2 or layer % 4 == 2
    heads, ffn = values.get("attention.head_count_kv"), values.get("feed_forward_length")
    if isinstance(heads, list):
        return heads[layer] == 0 and not (isinstance(ffn, list) and ffn[layer])
    if tiny.architecture in ("falcon-h1", "mamba2"):
        return True
    return bool((layer + 1) % values.get("full_attention_interval", 4))


def _guess(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    """Return the shape of the same tensor in another layer; llama.cpp says so if it is another one."""
    suffix = re.sub(r"^blk\.\d+\.", ".", name)
    return next((shape for other, shape in reversed(shapes.items()) if other.endswith(suffix)), (1,))


def _stripped(sizes: list[int]) -> tuple[int, ...]:
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _values(tiny: Tiny) -> dict[str, Any]:
    usual = {
        "block_count": tiny.n_layers,
        "context_length": N_CTX,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
    }
    return {key: value for key, value in {**usual, **tiny.metadata}.items() if value is not None}


def _write(path: Path, tiny: Tiny, shapes: Mapping[str, tuple[int, ...]], random: np.random.Generator | None) -> None:
    """Write the file; without `random` it holds nothing where the weights belong."""
    writer = gguf.GGUFWriter(path, tiny.architecture)
    writer.add_name(f"Tiny {tiny.architecture}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    for key, value in _values(tiny).items():
        add_value(writer, f"{tiny.architecture}.{key}", value)
    writer.add_tokenizer_model(tiny.tokenizer)
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_types(TOKEN_TYPES)
    if tiny.tokenizer in ("gpt2", "gemma4"):
        writer.add_token_merges(["i n", "e r"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    nbytes = 0
    for name, shape in shapes.items():
        kind = _type_of(name, shape)
        if random is not None:
            if kind == _Q8 and np.prod(shape) > LARGE:
                writer.add_tensor(name, _random_blocks(shape[::-1], random), raw_dtype=kind)
                continue
            data = _weights(name, shape[::-1], random)
            writer.add_tensor(name, data if kind == _F32 else gguf.quantize(data, kind), raw_dtype=kind)
            continue
        stored = gguf.quant_shape_to_byte_shape(shape[::-1], kind)
        size = int(np.prod(stored))
        if kind == _F32:
            writer.add_tensor_info(name, shape[::-1], np.dtype(np.float32), size)
        else:
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), size, raw_dtype=kind)
        nbytes += -(-size // ALIGNMENT) * ALIGNMENT
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    if random is None:
        writer.write_ti_data_to_file()
    else:
        writer.write_tensors_to_file()
    writer.close()
    if random is None:
        os.truncate(path, path.stat().st_size + nbytes + ALIGNMENT)


_F32 = gguf.GGMLQuantizationType.F32
_Q8 = gguf.GGMLQuantizationType.Q8_0


def _type_of(name: str, shape: tuple[int, ...]) -> gguf.GGMLQuantizationType:
    small = len(shape) < 2 or shape[0] % 32 or any(part in name for part in _FULL_PRECISION)
    return _F32 if small else _Q8


def _weights(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if name.startswith("rope_"):
        found = random.uniform(1, 4, shape)
    elif "ssm_a" in name:
        found = -random.uniform(0.1, 2, shape)
    elif "norm" in name and name.endswith("weight"):
        found = random.uniform(0.5, 1.5, shape)
    elif "scale" in name:
        found = random.uniform(0.8, 1.2, shape)
    else:
        found = random.normal(0, 0.3 if len(shape) == 1 else 0.15, shape)
    return found.astype(np.float32)


def _random_blocks(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Return random weights in Q8_0 (a scale and 32 numbers of 8 bits), without a detour through float32."""
    *rows, length = shape
    blocks = np.empty((*rows, length // 32, 34), np.uint8)
    blocks[..., :2] = np.frombuffer(np.float16(2.0 / (127 * length**0.5)).tobytes(), np.uint8)
    blocks[..., 2:] = random.integers(0, 255, (*rows, length // 32, 32), np.uint8)
    return blocks.reshape(*rows, length // 32 * 34)


def _refusal(path: Path) -> str | None:
    """Return why llama.cpp does not take the file, or None."""
    lines: list[str] = []
    callback = C.llama_log_callback(lambda level, text, _: lines.append(text.decode(errors="replace")))
    C.llama_log_set(callback, ctypes.c_void_p(0))
    params = C.llama_model_default_params()
    params.no_alloc, params.load_mode = True, C.LLAMA_LOAD_MODE_NONE
    model = C.llama_model_load_from_file(str(path).encode(), params)
    C.llama_log_set(_silent(), ctypes.c_void_p(0))
    if model:
        C.llama_model_free(model)
        return None
    return next((line for line in lines if "error loading model" in line), "".join(lines[-3:]))


@cache
def _silent() -> Any:
    return C.llama_log_callback(lambda *_: None)
