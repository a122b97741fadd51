"""A model of the size that people split, with random weights: what it says is noise, how long it takes is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rpc import model_path

from ainet.models.gguf import GGUFFile
from ainet.models.gguf_values import F32, Kind, TensorInfo, Value
from ainet.models.gguf_writer import header, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Q4_0 = 2
#: 1.5 billion weights in the shape of Llama.
N_EMBD, N_FF, N_LAYERS, N_HEAD, N_HEAD_KV, HEAD = 2048, 6144, 28, 16, 4, 128


def write_llama(path: Path, seed: int = 0) -> Path:
    """Write such a model in Q4_0 (0.9 GB), with the vocabulary of SmolLM2."""
    small = GGUFFile.open(model_path())
    words = {key: value for key, value in small.metadata.items() if key.startswith("tokenizer.")}
    number = {
        "block_count": N_LAYERS,
        "context_length": 4096,
        "embedding_length": N_EMBD,
        "feed_forward_length": N_FF,
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": N_HEAD_KV,
    }
    metadata = {
        "general.architecture": Value.of(Kind.STRING, "llama"),
        "general.name": Value.of(Kind.STRING, "Random 1.5B"),
        "general.file_type": Value.of(Kind.UINT32, Q4_0),
        **{f"llama.{key}": Value.of(Kind.UINT32, value) for key, value in number.items()},
        "llama.attention.layer_norm_rms_epsilon": Value.of(Kind.FLOAT32, 1e-5),
        **words,
    }
    shapes: list[tuple[str, tuple[int, ...], int]] = [
        ("token_embd.weight", (N_EMBD, len(words["tokenizer.ggml.tokens"])), Q4_0),
        ("output_norm.weight", (N_EMBD,), F32),
    ]
    for layer in range(N_LAYERS):
        for name, shape in (
            ("attn_norm", (N_EMBD,)),
            ("attn_q", (N_EMBD, N_HEAD * HEAD)),
            ("attn_k", (N_EMBD, N_HEAD_KV * HEAD)),
            ("attn_v", (N_EMBD, N_HEAD_KV * HEAD)),
            ("attn_output", (N_HEAD * HEAD, N_EMBD)),
            ("ffn_norm", (N_EMBD,)),
            ("ffn_gate", (N_EMBD, N_FF)),
            ("ffn_up", (N_EMBD, N_FF)),
            ("ffn_down", (N_FF, N_EMBD)),
        ):
            shapes.append((f"blk.{layer}.{name}.weight", shape, Q4_0 if len(shape) == 2 else F32))
    head, places, size = header(metadata, shapes)
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        write(file, head, ((place, _weights(place, random)) for place in places), size)
    return path


def _weights(place: TensorInfo, random: np.random.Generator) -> Iterator[bytes]:
    if place.type == F32:
        yield np.ones(place.shape, np.float32).tobytes()
        return
    # Blocks of a scale and 32 numbers of four bits, which are between -8 and 7 times it.
    blocks = random.integers(0, 256, (place.nbytes // 18, 18), np.uint8)
    blocks[:, :2] = np.frombuffer(np.float16(0.22 / place.shape[0] ** 0.5).tobytes(), np.uint8)
    yield blocks.tobytes()
