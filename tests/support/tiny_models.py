"""Small GGUF models with random weights, written as converters write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

N_EMBD = 64
N_HEAD = 4
N_HEAD_KV = 2
HEAD = 16
N_FF = 96
WINDOW = 32
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "▁the", "▁of", "in", "er"]
N_VOCAB = len(TOKENS)
TOKEN_TYPES = [2, 3, 3, *[6] * 256, *[1] * 5]


def write_model(
    path: Path,
    architecture: str,
    n_layers: int = 6,
    *,
    tied: bool = True,
    metadata: Mapping[str, Any] | None = None,
    extra: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    name: str = "Tiny",
    n_embd: int = N_EMBD,
    n_experts: int = 0,
    tokens: Mapping[str, int] | None = None,
) -> Path:
    """Write a model of `architecture`.

    Parameters
    ----------
    metadata
        Further keys after the architecture's name: numbers become uint32 or float32, lists become arrays.
    extra
        Further tensors outside the layers, with their shapes in numpy's order.
    tokens
        Tokens with a meaning of their own, by its name: ``fim_pre`` for ``tokenizer.ggml.fim_pre_token_id``.
    """
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    values: dict[str, Any] = {
        "block_count": n_layers,
        "context_length": 512,
        "embedding_length": n_embd,
        "feed_forward_length": N_FF,
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": N_HEAD_KV,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        **(metadata or {}),
    }
    for key, value in values.items():
        add_value(writer, f"{architecture}.{key}", value)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * N_VOCAB)
    writer.add_token_types(TOKEN_TYPES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for meaning, token in (tokens or {}).items():
        writer.add_uint32(f"tokenizer.ggml.{meaning}_token_id", token)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")

    def weights(tensor: str, *shape: int) -> None:
        data = random.normal(0, 0.15, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(tensor, gguf.quantize(data, kind), raw_dtype=kind)

    def norm(tensor: str, size: int) -> None:
        writer.add_tensor(tensor, random.uniform(0.5, 1.5, size).astype(np.float32))

    def bias(tensor: str, size: int) -> None:
        writer.add_tensor(tensor, random.normal(0, 0.1, size).astype(np.float32))

    weights("token_embd.weight", N_VOCAB, n_embd)
    norm("output_norm.weight", n_embd)
    if not tied:
        weights("output.weight", N_VOCAB, n_embd)
    for tensor, shape in (extra or {}).items():
        writer.add_tensor(tensor, random.uniform(1, 4, shape).astype(np.float32))
    for layer in range(n_layers):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm.weight", n_embd)
        norm(f"{block}.ffn_norm.weight", n_embd)
        if architecture == "phi3":
            weights(f"{block}.attn_qkv.weight", (N_HEAD + 2 * N_HEAD_KV) * HEAD, n_embd)
            weights(f"{block}.ffn_up.weight", 2 * N_FF, n_embd)
        else:
            for part, heads in (("q", N_HEAD), ("k", N_HEAD_KV), ("v", N_HEAD_KV)):
                weights(f"{block}.attn_{part}.weight", heads * HEAD, n_embd)
                if architecture == "qwen2":
                    bias(f"{block}.attn_{part}.bias", heads * HEAD)
            if n_experts:
                weights(f"{block}.ffn_gate_inp.weight", n_experts, n_embd)
                for part in ("gate", "up"):
                    weights(f"{block}.ffn_{part}_exps.weight", n_experts, N_FF, n_embd)
            else:
                weights(f"{block}.ffn_gate.weight", N_FF, n_embd)
                weights(f"{block}.ffn_up.weight", N_FF, n_embd)
        if n_experts:
            weights(f"{block}.ffn_down_exps.weight", n_experts, n_embd, N_FF)
        else:
            weights(f"{block}.ffn_down.weight", n_embd, N_FF)
        weights(f"{block}.attn_output.weight", n_embd, N_HEAD * HEAD)
        if architecture in ("qwen3", "qwen3moe", "gemma3"):
            norm(f"{block}.attn_q_norm.weight", HEAD)
            norm(f"{block}.attn_k_norm.weight", HEAD)
        if architecture == "gemma3":
            norm(f"{block}.post_attention_norm.weight", n_embd)
            norm(f"{block}.post_ffw_norm.weight", n_embd)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a metadata value in the type that converters give it."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
