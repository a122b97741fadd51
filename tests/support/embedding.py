"""A tiny embedding model, as the package of all-MiniLM-L6-v2 carries the real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ainet.models.gguf_values import Kind, Value
from ainet.models.gguf_writer import header, write
from ainet.vectors import minilm

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, INNER, HEADS, LAYERS = 64, 128, 4, 2
WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("the", "cat", "dog", "sleep", "##s", "taxes", "are", "due", "in", "april", "on", "sofa", "a", "b", "c", "query"),
]


def write_model(path: Path, seed: int = 0, name: str = "tiny") -> Path:
    """Write a BERT with random weights, and a vocabulary of a few words."""
    drawn = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(WORDS), WIDTH),
        "position_embd.weight": (512, WIDTH),
        "token_types.weight": (2, WIDTH),
        "token_embd_norm.weight": (WIDTH,),
        "token_embd_norm.bias": (WIDTH,),
    }
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes |= {f"blk.{layer}.{part}.weight": (WIDTH, WIDTH), f"blk.{layer}.{part}.bias": (WIDTH,)}
        shapes |= {f"blk.{layer}.ffn_up.weight": (INNER, WIDTH), f"blk.{layer}.ffn_up.bias": (INNER,)}
        shapes |= {f"blk.{layer}.ffn_down.weight": (WIDTH, INNER), f"blk.{layer}.ffn_down.bias": (WIDTH,)}
        for part in ("attn_output_norm", "layer_output_norm"):
            shapes |= {f"blk.{layer}.{part}.{kind}": (WIDTH,) for kind in ("weight", "bias")}
    metadata = minilm.described({word: number for number, word in enumerate(WORDS)}) | {
        "general.name": Value.of(Kind.STRING, name),
        "bert.block_count": Value.of(Kind.UINT32, LAYERS),
        "bert.embedding_length": Value.of(Kind.UINT32, WIDTH),
        "bert.feed_forward_length": Value.of(Kind.UINT32, INNER),
        "bert.attention.head_count": Value.of(Kind.UINT32, HEADS),
    }
    for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")):
        for key in minilm.SPECIAL[word]:
            metadata[key] = Value.of(Kind.UINT32, number)
    head, infos, size = header(metadata, [(name, shape[::-1], 0) for name, shape in shapes.items()])
    data = ([drawn.standard_normal(shape).astype("<f4").tobytes()] for shape in shapes.values())
    with path.open("wb") as file:
        write(file, head, zip(infos, data, strict=True), size)
    return path
