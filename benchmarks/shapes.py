"""Models of the sizes that people split, with random weights: what they say is noise, how long they take is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rpc import model_path

from ainet.models.gguf import GGUFFile
from ainet.models.gguf_values import F32, Kind, TensorInfo, Value
from ainet.models.gguf_writer import header, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Q4_0 = 2
HEAD = 128


class Shape(NamedTuple):
    """The dimensions of a model in the shape of Llama."""

    name: str
    n_embd: int
    n_ff: int
    n_layers: int
    n_head: int
    n_head_kv: int


#: 0.9 and 4.1 GB in Q4_0.
SMALL = Shape("Random 1.5B", 2048, 6144, 28, 16, 4)
LARGE = Shape("Random 8B", 4096, 14336, 32, 32, 8)


def write_llama(path: Path, shape: Shape = SMALL, seed: int = 0) -> Path:
    """Write such a model in Q4_0, with the vocabulary of SmolLM2."""
    n_embd, n_ff, n_head, n_head_kv = shape.n_embd, shape.n_ff, shape.n_head, shape.n_head_kv
    small = GGUFFile.open(model_path())
    words = {key: value for key, value in small.metadata.items() if key.startswith("tokenizer.")}
    number = {
        "block_count": shape.n_layers,
        "context_length": 4096,
        "embedding_length": n_embd,
        "feed_forward_length": n_ff,
        "attention.head_count": n_head,
        "attention.head_count_kv": n_head_kv,
    }
    metadata = {
        "general.architecture": Value.of(Kind.STRING, "llama"),
        "general.name": Value.of(Kind.STRING, shape.name),
        "general.file_type": Value.of(Kind.UINT32, Q4_0),
        **{f"llama.{key}": Value.of(Kind.UINT32, value) for key, value in number.items()},
        "llama.attention.layer_norm_rms_epsilon": Value.of(Kind.FLOAT32, 1e-5),
        **words,
    }
    shapes: list[tuple[str, tuple[int, ...], int]] = [
        ("token_embd.weight", (n_embd, len(words["tokenizer.ggml.tokens"])), Q4_0),
        ("output_norm.weight", (n_embd,), F32),
    ]
    for layer in range(shape.n_layers):
        for name, size in (
            ("attn_norm", (n_embd,)),
            ("attn_q", (n_embd, n_head * HEAD)),
            ("attn_k", (n_embd, n_head_kv * HEAD)),
            ("attn_v", (n_embd, n_head_kv * HEAD)),
            ("attn_output", (n_head * HEAD, n_embd)),
            ("ffn_norm", (n_embd,)),
            ("ffn_gate", (n_embd, n_ff)),
            ("ffn_up", (n_embd, n_ff)),
            ("ffn_down", (n_ff, n_embd)),
        ):
            shapes.append((f"blk.{layer}.{name}.weight", size, Q4_0 if len(size) == 2 else F32))
    head, places, total = header(metadata, shapes)
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        write(file, head, ((place, _weights(place, random)) for place in places), total)
    return path


def _weights(place: TensorInfo, random: np.random.Generator) -> Iterator[bytes]:
    if place.type == F32:
        yield np.ones(place.shape, np.float32).tobytes()
        return
    # Blocks of a scale and 32 numbers of four bits, which are between -8 and 7 times it.
    blocks = random.integers(0, 256, (place.nbytes // 18, 18), np.uint8)
    blocks[:, :2] = np.frombuffer(np.float16(0.22 / place.shape[0] ** 0.5).tobytes(), np.uint8)
    yield blocks.tobytes()
