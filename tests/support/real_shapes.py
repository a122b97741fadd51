"""Models with the dimensions of real ones, but few layers and no weights: for what llama.cpp would allocate."""

from __future__ import annotations

from support.tiny_architectures import Tiny

VOCABULARY = 32_000


def _gated(experts: int, used: int, width: int, **more: object) -> dict[str, object]:
    return {"expert_count": experts, "expert_used_count": used, "expert_feed_forward_length": width, **more}


def _mla(heads: int, rank: int, queries: int) -> dict[str, object]:
    return {
        **{"attention.head_count": heads, "attention.head_count_kv": 1, "attention.kv_lora_rank": rank},
        **{"attention.key_length": rank + 64, "attention.value_length": rank, "attention.key_length_mla": 192},
        **{"attention.value_length_mla": 128, "attention.q_lora_rank": queries, "rope.dimension_count": 64},
    }


def _size(n_embd: int, ffn: int, heads: int, shared: int, length: int) -> dict[str, object]:
    return {
        **{"embedding_length": n_embd, "feed_forward_length": ffn, "attention.head_count": heads},
        **{"attention.head_count_kv": shared, "attention.key_length": length, "attention.value_length": length},
    }


MAMBA = {"ssm.conv_kernel": 4, "ssm.state_size": 128, "ssm.time_step_rank": 64, "ssm.group_count": 8}
DELTA = {"ssm.conv_kernel": 4, "ssm.inner_size": 4096, "ssm.state_size": 128, "ssm.time_step_rank": 32}

REAL_SHAPES = {
    "Llama 3 8B": Tiny("llama", _size(4096, 14336, 32, 8, 128), 6),
    "gpt-oss 20b": Tiny(
        "gpt-oss", {**_size(2880, 2880, 64, 8, 64), **_gated(32, 4, 2880), "attention.sliding_window": 128}, 6
    ),
    "GLM-4.5-Air": Tiny(
        "glm4moe",
        {
            **{**_size(4096, 10944, 96, 8, 128), **_gated(128, 8, 1408, expert_shared_count=1)},
            **{"leading_dense_block_count": 1, "rope.dimension_count": 64},
        },
        6,
    ),
    "Qwen3.5 35B-A3B": Tiny(
        "qwen35moe",
        {
            **{**_size(2048, 512, 16, 2, 256), **_gated(256, 8, 512), **DELTA, "ssm.group_count": 16},
            **{"expert_shared_feed_forward_length": 512, "rope.dimension_count": 64},
            "rope.dimension_sections": [11, 11, 10, 0],
        },
        8,
        {"attn_qkv.weight@recurrent": (2048, 8192), "attn_gate.weight@recurrent": (2048, 4096)},
    ),
    "DeepSeek-V3": Tiny(
        "deepseek2",
        {
            **{**_size(7168, 18432, 128, 1, 0), **_mla(128, 512, 1536)},
            **_gated(256, 8, 2048, expert_shared_count=1, leading_dense_block_count=3),
        },
        5,
    ),
    "GLM-5": Tiny(
        "glm-dsa",
        {
            **{**_size(6144, 12288, 64, 1, 0), **_mla(64, 512, 2048)},
            **_gated(256, 8, 2048, expert_shared_count=1, leading_dense_block_count=3),
            **{"attention.indexer.head_count": 32, "attention.indexer.key_length": 128},
            "attention.indexer.top_k": 2048,
        },
        5,
        {
            **{"indexer.k_norm.weight": (128,), "indexer.k_norm.bias": (128,), "indexer.proj.weight": (6144, 32)},
            **{"indexer.attn_k.weight": (6144, 128), "indexer.attn_q_b.weight": (2048, 4096)},
        },
    ),
    "MiniMax-M2": Tiny(
        "minimax-m2",
        {**_size(3072, 1536, 48, 8, 128), **_gated(256, 8, 1536), "expert_gating_func": 2, "rope.dimension_count": 64},
        4,
    ),
    "Gemma 4 31B": Tiny(
        "gemma4",
        {
            **{**_size(5376, 21504, 32, 16, 512), "attention.sliding_window": 1024},
            **{"attention.key_length_swa": 256, "attention.value_length_swa": 256},
            **{"rope.dimension_count": 512, "rope.dimension_count_swa": 256, "embedding_length_per_layer_input": 0},
            "attention.sliding_window_pattern": [True, True, True, True, True, False],
            "attention.head_count_kv": [16, 16, 16, 16, 16, 4],
        },
        6,
        tokenizer="gemma4",
    ),
    "Llama 4 Scout": Tiny(
        "llama4",
        {
            **{**_size(5120, 16384, 40, 8, 128), **_gated(16, 1, 8192), "interleave_moe_layer_step": 1},
            "expert_shared_feed_forward_length": 8192,
        },
        8,
    ),
    "Granite 4 H Small": Tiny(
        "granitehybrid",
        {
            **{**_size(4096, 768, 32, 8, 128), "expert_count": 72, "expert_used_count": 10, **MAMBA},
            **{"ssm.inner_size": 8192, "ssm.time_step_rank": 128, "ssm.group_count": 1},
            **{"expert_shared_feed_forward_length": 1536, "attention.head_count_kv": [0, 0, 0, 0, 0, 8]},
            **{"embedding_scale": 12.0, "residual_scale": 0.22, "attention.scale": 0.0078125, "logit_scale": 16.0},
        },
        6,
        {"ssm_conv1d.bias@recurrent": (8448,)},
    ),
    "LFM2 8B-A1B": Tiny(
        "lfm2moe",
        {
            **{**_size(2048, 7168, 32, 8, 64), **_gated(32, 4, 1792), "shortconv.l_cache": 3},
            **{"expert_gating_func": 2, "leading_dense_block_count": 2},
            "attention.head_count_kv": [0, 0, 8, 0, 0, 0, 8, 0],
        },
        8,
    ),
    "Nemotron 3 Nano": Tiny(
        "nemotron_h_moe",
        {
            **{**_size(2688, 0, 32, 2, 128), **_gated(128, 6, 1856), **MAMBA, "ssm.inner_size": 4096},
            **{"expert_shared_feed_forward_length": 3712, "expert_shared_count": 1},
            **{"attention.layer_norm_epsilon": 1e-5, "attention.head_count_kv": [0, 0, 0, 2, 0, 0]},
            **{"feed_forward_length": [0, 1856, 0, 0, 1856, 0], "expert_weights_scale": 2.5},
        },
        6,
        {"ssm_conv1d.bias@recurrent": (6144,)},
    ),
}
