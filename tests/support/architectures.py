"""One tiny model, or several, of each architecture that may be split.

Kinds of layers differ in everything in which they may differ: a wrong rule would pass otherwise.
"""

from __future__ import annotations

from support.tiny_architectures import Tiny

HEAD = {"attention.key_length": 16, "attention.value_length": 16}
EXPERTS = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
SHARED_EXPERT = {"expert_shared_count": 1, "expert_shared_feed_forward_length": 32}
GATED = {**EXPERTS, "expert_gating_func": 2, "expert_weights_scale": 1.5, "expert_weights_norm": True}
LAYER_NORM = {"attention.layer_norm_rms_epsilon": None, "attention.layer_norm_epsilon": 1e-5}
#: A window that the second chunk of the prompt reaches beyond, in layers with another RoPE.
WINDOW = {"attention.sliding_window": 32, "rope.freq_base": 500000.0, "rope.freq_base_swa": 10000.0}
MLA = {
    "attention.head_count_kv": 1,
    "attention.key_length": 48,
    "attention.value_length": 32,
    "attention.key_length_mla": 32,
    "attention.value_length_mla": 16,
    "attention.kv_lora_rank": 32,
    "attention.q_lora_rank": 32,
    "rope.dimension_count": 16,
}
INDEXER = {"attention.indexer.head_count": 2, "attention.indexer.key_length": 64, "attention.indexer.top_k": 16}
INDEXER_TENSORS = {
    "indexer.k_norm.weight": (64,),
    "indexer.k_norm.bias": (64,),
    "indexer.proj.weight": (64, 2),
    "indexer.attn_k.weight": (64, 64),
    "indexer.attn_q_b.weight": (32, 128),
}
MAMBA = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 128,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 8,
    "ssm.group_count": 2,
}
DELTA = {
    **HEAD,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 64,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
    "rope.dimension_count": 8,
}
RECURRENT = {"attn_qkv.weight": (64, 128), "attn_gate.weight": (64, 64)}


def at(kind: str, tensors: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return optional tensors of one kind of layers only."""
    return {f"{name}@{kind}": shape for name, shape in tensors.items()}


SECTIONS = {"rope.dimension_sections": [2, 1, 1, 0]}
KDA = {"ssm.conv_kernel": 4, "kda.head_dim": 16}
CONVOLUTION = {"ssm_conv1d.bias": (192,)}
NEXTN = at("further", {"nextn.eh_proj.weight": (128, 64), "nextn.enorm.weight": (64,), "nextn.hnorm.weight": (64,)})
NORMS = {"attn_q_norm.weight": (16,), "attn_k_norm.weight": (16,)}
BIASES = {"attn_q.bias": (64,), "attn_k.bias": (32,), "attn_v.bias": (32,)}

TINY = {
    "gpt-oss": Tiny("gpt-oss", {**HEAD, **EXPERTS, **WINDOW}),
    "glm4moe": Tiny(
        "glm4moe",
        {**HEAD, **GATED, **SHARED_EXPERT, "leading_dense_block_count": 2, "rope.dimension_count": 8},
        optional=NORMS,
    ),
    "glm4moe-mtp": Tiny(
        "glm4moe",
        {
            **{**HEAD, **GATED, **SHARED_EXPERT},
            "leading_dense_block_count": 1,
            "rope.dimension_count": 8,
            "nextn_predict_layers": 1,
        },
        optional={"attn_norm.weight": (64,), **NEXTN},
    ),
    "qwen35": Tiny("qwen35", {**DELTA, **SECTIONS}, 12, at("recurrent", RECURRENT)),
    "qwen35-mtp": Tiny(
        "qwen35",
        {**DELTA, **SECTIONS, "nextn_predict_layers": 1},
        9,
        {"attn_norm.weight": (64,), **at("recurrent", RECURRENT), **at("further", {"nextn.eh_proj.weight": (128, 64)})},
    ),
    "qwen35-interval": Tiny(
        "qwen35", {**DELTA, **SECTIONS, "full_attention_interval": 3}, 7, at("recurrent", RECURRENT)
    ),
    "qwen35moe": Tiny(
        "qwen35moe",
        {**DELTA, **SECTIONS, **EXPERTS, "expert_shared_feed_forward_length": 32},
        12,
        at("recurrent", RECURRENT),
    ),
    "qwen3next": Tiny(
        "qwen3next",
        {**DELTA, **EXPERTS, "expert_shared_feed_forward_length": 32},
        12,
        at("recurrent", RECURRENT),
    ),
    "deepseek2": Tiny("deepseek2", {**MLA, **GATED, "expert_shared_count": 1, "leading_dense_block_count": 2}),
    "deepseek2-lite": Tiny(
        "deepseek2",
        {**MLA, **EXPERTS, "attention.q_lora_rank": None, "expert_shared_count": 1, "leading_dense_block_count": 1},
        26,
    ),
    "deepseek2-plain": Tiny(  # as it was written before its keys were kept compressed
        "deepseek2",
        {
            **{**GATED, "expert_shared_count": 1, "leading_dense_block_count": 2, "attention.head_count_kv": 4},
            **{"attention.key_length": 32, "attention.value_length": 16, "attention.kv_lora_rank": 32},
            **{"attention.q_lora_rank": 32, "rope.dimension_count": 16},
        },
    ),
    "qwen3next-fused": Tiny(
        "qwen3next",
        {**DELTA, **EXPERTS, "expert_shared_feed_forward_length": 32},
        8,
        at("recurrent", {"ssm_in.weight": (64, 192)}),
    ),
    "deepseek2-yarn": Tiny(
        "deepseek2",
        {
            **{**MLA, **GATED, "expert_shared_count": 1, "leading_dense_block_count": 1},
            **{"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.yarn_log_multiplier": 0.1},
            "rope.scaling.original_context_length": 64,
        },
    ),
    "mistral4": Tiny("mistral4", {**MLA, **GATED, "expert_shared_count": 1}),
    "mistral3": Tiny(
        "mistral3",
        {
            **{**HEAD, "attention.temperature_scale": 0.3, "rope.scaling.original_context_length": 64},
            **{"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0},
        },
    ),
    "mistral3-experts": Tiny("mistral3", {**HEAD, **EXPERTS}),
    "minimax-m2": Tiny("minimax-m2", {**HEAD, **EXPERTS, "expert_gating_func": 2, "rope.dimension_count": 8}),
    "minimax-m3": Tiny(
        "minimax-m3",
        {
            **{**HEAD, **GATED, **SHARED_EXPERT, "leading_dense_block_count": 2, "rope.dimension_count": 8},
            **{"attention.indexer.head_count": 2, "attention.indexer.key_length": 16, "attention.indexer.top_k": 2},
            **{"attention.indexer.block_size": 8, "attention.indexer.local_blocks": 1},
        },
    ),
    "gemma4": Tiny(
        "gemma4",
        {
            **WINDOW,
            **{"attention.key_length": 32, "attention.value_length": 32},
            **{"attention.key_length_swa": 16, "attention.value_length_swa": 16},
            **{"rope.dimension_count": 32, "rope.dimension_count_swa": 16, "embedding_length_per_layer_input": 0},
            "attention.sliding_window_pattern": [True, True, False, True, True, False, True, True],
            "attention.head_count_kv": [2, 2, 1, 2, 2, 1, 2, 2],
            "final_logit_softcapping": 30.0,
        },
        8,
        outer={"rope_freqs.weight": (16,)},
        tokenizer="gemma4",
    ),
    "llama4": Tiny("llama4", {**HEAD, **EXPERTS, **SHARED_EXPERT, "interleave_moe_layer_step": 2}, 12),
    "granitehybrid": Tiny(
        "granitehybrid",
        {
            **MAMBA,
            "attention.head_count_kv": [0, 0, 2, 0, 0, 2, 0, 2],
            **{"embedding_scale": 3.0, "residual_scale": 0.4, "attention.scale": 0.2, "logit_scale": 2.0},
        },
        8,
        at("recurrent", CONVOLUTION),
    ),
    "granitehybrid-experts": Tiny(
        "granitehybrid",
        {
            **{**MAMBA, **EXPERTS, "expert_feed_forward_length": None, "expert_shared_feed_forward_length": 32},
            "attention.head_count_kv": [0, 0, 2, 0, 0, 2, 0, 2],
            **{"embedding_scale": 3.0, "residual_scale": 0.4, "attention.scale": 0.2, "logit_scale": 2.0},
        },
        8,
        at("recurrent", CONVOLUTION),
    ),
    "lfm2": Tiny("lfm2", {"shortconv.l_cache": 3, "attention.head_count_kv": [0, 0, 2, 0, 2, 0, 0, 2]}, 8),
    "lfm2moe": Tiny(
        "lfm2moe",
        {
            **{**EXPERTS, "expert_gating_func": 2, "leading_dense_block_count": 2, "shortconv.l_cache": 3},
            "attention.head_count_kv": [0, 0, 2, 0, 2, 0, 0, 2],
        },
        8,
    ),
    "nemotron_h": Tiny(
        "nemotron_h",
        {
            **{**MAMBA, **HEAD, "attention.layer_norm_epsilon": 1e-5},
            "attention.head_count_kv": [0, 0, 2, 0, 0, 0, 2, 0],
            "feed_forward_length": [0, 96, 0, 96, 0, 96, 0, 0],
        },
        8,
        at("recurrent", CONVOLUTION),
    ),
    "nemotron_h_moe": Tiny(
        "nemotron_h_moe",
        {
            **{**MAMBA, **HEAD, **EXPERTS, **SHARED_EXPERT, "attention.layer_norm_epsilon": 1e-5},
            "attention.head_count_kv": [0, 0, 2, 0, 0, 0, 2, 0],
            "feed_forward_length": [0, 96, 0, 96, 0, 96, 0, 0],
            **{"expert_weights_norm": True, "expert_weights_scale": 1.5},
        },
        8,
        at("recurrent", CONVOLUTION),
    ),
    "deepseek32": Tiny(
        "deepseek32", {**MLA, **GATED, **INDEXER, "expert_shared_count": 1, "leading_dense_block_count": 2}
    ),
    "glm-dsa": Tiny(
        "glm-dsa",
        {**MLA, **GATED, **INDEXER, "expert_shared_count": 1, "leading_dense_block_count": 2},
        optional=at("indexed", INDEXER_TENSORS),
    ),
    "glm-dsa-types": Tiny(
        "glm-dsa",
        {
            **{**MLA, **GATED, **INDEXER, "expert_shared_count": 1, "leading_dense_block_count": 2},
            "attention.indexer.types": [1, 1, 0, 1, 0, 1],
        },
        optional=at("indexed", INDEXER_TENSORS),
    ),
    "glm-dsa-mtp": Tiny(
        "glm-dsa",
        {
            **{**MLA, **GATED, **INDEXER, "expert_shared_count": 1, "leading_dense_block_count": 2},
            **{"attention.indexer.types": [1, 1, 0, 1, 0], "nextn_predict_layers": 1},
        },
        optional={"attn_norm.weight": (64,), **NEXTN, **at("indexed", INDEXER_TENSORS)},
    ),
    "glm-dsa-long": Tiny(
        "glm-dsa",
        {
            **{**MLA, **GATED, **INDEXER, "expert_shared_count": 1, "leading_dense_block_count": 2},
            "context_length": 1 << 20,
        },
        8,
        at("indexed", INDEXER_TENSORS),
    ),
    "seed_oss": Tiny("seed_oss", {**HEAD}, optional=BIASES),
    "ernie4_5": Tiny("ernie4_5", HEAD),
    "ernie4_5-moe": Tiny(
        "ernie4_5-moe",
        {**EXPERTS, **SHARED_EXPERT, "interleave_moe_layer_step": 2, "leading_dense_block_count": 1},
        8,
    ),
    "hunyuan-moe": Tiny("hunyuan-moe", {**HEAD, **EXPERTS, **SHARED_EXPERT}),
    "hunyuan-dense": Tiny("hunyuan-dense", HEAD),
    "hunyuan_vl": Tiny("hunyuan_vl", {**HEAD, "rope.dimension_sections": [4, 2, 2, 0]}),
    "hy_v3": Tiny("hy_v3", {**HEAD, **GATED, **SHARED_EXPERT, "leading_dense_block_count": 2}),
    "bailingmoe": Tiny("bailingmoe", {**GATED, "expert_shared_count": 1, "leading_dense_block_count": 2}),
    "bailingmoe2": Tiny("bailingmoe2", {**GATED, **SHARED_EXPERT, "leading_dense_block_count": 2}),
    "bailingmoe3": Tiny(
        "bailingmoe3",
        {
            **{**MLA, **KDA, **GATED, **SHARED_EXPERT, "leading_dense_block_count": 2, "kda.gate_lower_bound": -5.0},
            "attention.head_count_kv": [0, 0, 1, 0, 1, 0, 0, 1],
        },
        8,
    ),
    "dots1": Tiny(
        "dots1",
        {**HEAD, "attention.head_count_kv": 4, **GATED, "expert_shared_count": 1, "leading_dense_block_count": 2},
    ),
    "olmo2": Tiny("olmo2"),
    "olmo3": Tiny("olmo2", WINDOW, 10),
    "mimo2": Tiny(
        "mimo2",
        {
            **{**WINDOW, **GATED, "attention.key_length": 24, "attention.value_length": 16},
            **{"rope.dimension_count": 8, "attention.sliding_window_pattern": [0, 1, 1, 0, 0, 1, 1]},
            **{"attention.head_count_kv": [2, 4, 4, 2, 2, 4, 4], "attention.value_scale": 0.7},
        },
        7,
    ),
    "cohere2": Tiny("cohere2", {**LAYER_NORM, **WINDOW, "logit_scale": 0.25}, 9),
    "cohere2moe": Tiny(
        "cohere2moe",
        {**LAYER_NORM, **WINDOW, **GATED, **SHARED_EXPERT, "logit_scale": 0.25, "leading_dense_block_count": 1},
        9,
    ),
    "step35": Tiny(
        "step35",
        {
            **{**WINDOW, **GATED, "expert_shared_feed_forward_length": 32, **HEAD, "rope.dimension_count": 16},
            **{"rope.dimension_count_swa": 16, "attention.sliding_window_pattern": [0, 1, 1, 1, 0, 1, 1, 1]},
            **{"attention.head_count": [4, 8, 8, 8, 4, 8, 8, 8], "attention.head_count_kv": [2, 4, 4, 4, 2, 4, 4, 4]},
            "swiglu_clamp_exp": [0.0, 0.0, 7.0, 0.0, 0.0, 5.0, 0.0, 0.0],
            "swiglu_clamp_shexp": [0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 2.0, 0.0],
        },
        8,
    ),
    "kimi-linear": Tiny(
        "kimi-linear",
        {
            **{**MLA, **KDA, **GATED, "expert_shared_count": 1, "leading_dense_block_count": 1},
            **{"attention.q_lora_rank": None, "attention.head_count_kv": [0, 0, 1, 0, 1, 0, 0, 1]},
        },
        8,
    ),
    "falcon-h1": Tiny("falcon-h1", {**MAMBA, **HEAD}, optional=CONVOLUTION),
    "jamba": Tiny("jamba", {**MAMBA, "ssm.group_count": None, "attention.head_count_kv": [0, 0, 2, 0, 0, 2, 0, 2]}, 8),
    "mamba2": Tiny("mamba2", {**MAMBA, "attention.head_count": 0, "attention.head_count_kv": None}),
    "smallthinker": Tiny("smallthinker", {**HEAD, **EXPERTS, **WINDOW, "expert_gating_func": 2}, 16),
    "exaone4": Tiny("exaone4"),
    "exaone-moe": Tiny("exaone-moe", {**GATED, **SHARED_EXPERT, **WINDOW, "leading_dense_block_count": 1}, 9),
    "granitemoe": Tiny(
        "granitemoe",
        {
            **{**EXPERTS, "expert_feed_forward_length": None, "embedding_scale": 3.0, "residual_scale": 0.4},
            **{"attention.scale": 0.2, "logit_scale": 2.0},
        },
    ),
    "granite_swa": Tiny(
        "granite_swa",
        {
            **WINDOW,
            "attention.sliding_window_pattern": [1, 0, 1, 1, 0, 1],
            "attention.rope_pattern": [1, 0, 1, 1, 0, 1],
            **{"embedding_scale": 3.0, "residual_scale": 0.4, "attention.scale": 0.2, "logit_scale": 2.0},
        },
    ),
    "laguna": Tiny(
        "laguna",
        {
            **{**HEAD, **GATED, **WINDOW, "expert_shared_feed_forward_length": 32, "leading_dense_block_count": 1},
            **{"rope.dimension_count": 8, "rope.dimension_count_swa": 16},
        },
        12,
        {"attn_gate.weight": (64, 4)},
    ),
    "qwen2vl": Tiny("qwen2vl", {"rope.dimension_sections": [4, 2, 2, 0]}, optional=BIASES),
    "qwen3vl": Tiny("qwen3vl", {**HEAD, "rope.dimension_sections": [4, 2, 2, 0], "n_deepstack_layers": 2}),
    "qwen3vlmoe": Tiny(
        "qwen3vlmoe", {**HEAD, **EXPERTS, "rope.dimension_sections": [4, 2, 2, 0], "n_deepstack_layers": 2}
    ),
    "grok": Tiny("grok", {**EXPERTS}),
    "minicpm": Tiny("minicpm", {}),
    "minicpm-written": Tiny("minicpm", {"embedding_scale": 5.0, "residual_scale": 0.3, "logit_scale": 2.0}),
    "arcee": Tiny("arcee"),
    "arctic": Tiny("arctic", {"expert_count": 4, "expert_used_count": 2}),
    "chatglm": Tiny(
        "chatglm", {"rope.dimension_count": 8}, optional={"attn_qkv.weight": (64, 128), "attn_qkv.bias": (128,)}
    ),
    "command-r": Tiny("command-r", {**LAYER_NORM, "logit_scale": 0.25}),
    "dbrx": Tiny("dbrx", {**LAYER_NORM, "expert_count": 4, "expert_used_count": 2, "attention.clamp_kqv": 8.0}),
    "deepseek": Tiny("deepseek", {**GATED, "expert_shared_count": 1, "leading_dense_block_count": 2}),
    "exaone": Tiny("exaone"),
    "falcon": Tiny("falcon", LAYER_NORM),
    "grovemoe": Tiny(
        "grovemoe",
        {
            **{**HEAD, **EXPERTS, "expert_chunk_feed_forward_length": 32, "expert_group_scale": 0.05},
            "experts_per_group": 2,
        },
    ),
    "internlm2": Tiny("internlm2"),
    "mellum": Tiny("mellum", {**HEAD, **EXPERTS, **WINDOW}, 9),
    "nemotron": Tiny("nemotron", {**LAYER_NORM, "rope.dimension_count": 8}),
    "olmo": Tiny("olmo", {**LAYER_NORM, "attention.clamp_kqv": 8.0}),
    "olmoe": Tiny("olmoe", {"attention.head_count_kv": 4, "expert_count": 4, "expert_used_count": 2}),
    "pangu-embedded": Tiny("pangu-embedded", optional=BIASES),
    "phimoe": Tiny("phimoe", {"expert_count": 4, "expert_used_count": 2}),
    "plamo3": Tiny("plamo3", {**HEAD, **WINDOW}, 10),
    "qwen2moe": Tiny("qwen2moe", {**EXPERTS, "expert_shared_feed_forward_length": 32}),
    "spark2_5": Tiny("spark2_5", {**HEAD, **WINDOW, "attention.sliding_window_pattern": [1, 0, 0, 1, 1, 0, 1]}, 7),
    "stablelm": Tiny("stablelm", {**LAYER_NORM, "rope.dimension_count": 8, "use_parallel_residual": False}),
    "starcoder2": Tiny("starcoder2", LAYER_NORM),
}
