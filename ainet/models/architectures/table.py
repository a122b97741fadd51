"""The architectures that may be split between devices, and why others may not.

Each entry was read in llama.cpp's ``src/models``, and is tested on random weights at every cut that it allows: the
difference is exactly 0. Names, defaults and conditions are those of the llama.cpp that is pinned.
"""

from __future__ import annotations

from functools import cache

from ainet.models.architectures.layers import Recurrence, Window
from ainet.models.architectures.rules import BOTH_KINDS, WINDOWED, Architecture, Rule
from ainet.models.architectures.special import (
    AlwaysRoPE,
    Compressed,
    DenseFirst,
    Gemma4,
    ScaledByDepth,
    Sectioned,
    SharedIndexers,
)

#: The llama-cpp-python whose llama.cpp was read.
VERIFIED_WITH = "0.3.36"
#: llama.cpp insists on a matrix of its own for the output.
OUTPUT = ("output.weight",)
#: Tensors of gated delta nets, of Mamba's convolution, and of an indexer.
DELTA = ("attn_qkv.weight", "attn_gate.weight")
OLD_DELTA = ("attn_qkv.weight|ssm_in.weight", "attn_gate.weight|ssm_in.weight")
CONVOLUTION = ("ssm_conv1d.bias",)
INDEXER = ("indexer.proj.weight", "indexer.attn_k.weight", "indexer.attn_q_b.weight")
#: What converters call the last norm of these models.
EMBEDDING_NORM = "token_embd_norm.weight"
#: The file names the layers that have a window.
NAMED = Window(mandatory=True)
HEADLESS = Recurrence.WITHOUT_HEADS

RULES = (
    Rule(name="llama", uniform=True, rope_is_head=True),
    Rule(name="qwen2", uniform=True, rope_is_head=True, experts=False),
    Rule(name="qwen3", uniform=True, rope_is_head=True, experts=False),
    Rule(name="qwen3moe", uniform=True, rope_is_head=True),
    Rule(name="phi3", uniform=True, experts=False),
    # Every 4th layer has no RoPE, counted from the file's first.
    Rule(name="smollm3", uniform=True, rope_is_head=True, experts=False, step=4),
    Rule(
        name="gemma3",
        uniform=True,
        experts=False,
        window=Window(period=6),
        scaled_input=True,
        mistaken={62: "gemma3-27b, with another attention scale"},
        differs_on_gpu=True,
    ),
    Rule(name="granite", uniform=True, rope_is_head=True, experts=False, only_first=("embedding_scale",)),
    Rule(name="gpt-oss", window=Window(period=2, mandatory=True), unbounded=True, output=OUTPUT),
    Sectioned(name="glm4moe"),
    Rule(name="qwen35", recurrence=Recurrence.INTERVAL, needs=BOTH_KINDS, states=DELTA, rolls_back=True),
    Rule(name="qwen35moe", recurrence=Recurrence.INTERVAL, needs=BOTH_KINDS, states=DELTA, rolls_back=True),
    Rule(name="qwen3next", recurrence=Recurrence.INTERVAL, needs=BOTH_KINDS, states=OLD_DELTA),
    Compressed(name="deepseek2", uneven=True),
    Compressed(name="mistral4", uneven=True),
    Rule(name="mistral3"),
    Rule(name="minimax-m2", output=OUTPUT, router=True),
    DenseFirst(name="minimax-m3", output=OUTPUT, router=True),
    Gemma4(name="gemma4", window=NAMED, needs=WINDOWED, least=2, scaled_input=True),
    AlwaysRoPE(
        name="llama4", step=4, step_key="interleave_moe_layer_step", window=Window(period=4, size=8192, always=True)
    ),
    Rule(
        name="granitehybrid",
        expansion=2,
        states=CONVOLUTION,
        recurrence=HEADLESS,
        needs=BOTH_KINDS,
        only_first=("embedding_scale",),
    ),
    Rule(
        name="lfm2",
        recurrence=HEADLESS,
        rolls_back=True,
        needs=BOTH_KINDS,
        norm=EMBEDDING_NORM,
        shared=(EMBEDDING_NORM,),
    ),
    Rule(
        name="lfm2moe",
        router=True,
        recurrence=HEADLESS,
        rolls_back=True,
        needs=BOTH_KINDS,
        norm=EMBEDDING_NORM,
        shared=(EMBEDDING_NORM,),
    ),
    Rule(
        name="nemotron_h",
        states=CONVOLUTION,
        recurrence=Recurrence.WITHOUT_HEADS_AND_FFN,
        rolls_back=True,
        needs=BOTH_KINDS,
        hidden="nemotron_h_block_out-{}",
    ),
    Rule(
        name="nemotron_h_moe",
        states=CONVOLUTION,
        recurrence=Recurrence.WITHOUT_HEADS_AND_FFN,
        rolls_back=True,
        needs=BOTH_KINDS,
        hidden="nemotron_h_block_out-{}",
    ),
    Rule(name="deepseek32", router=True, alone=True),
    SharedIndexers(name="glm-dsa", indexers=INDEXER, alone=True),
    Rule(name="seed_oss"),
    Rule(name="ernie4_5"),
    Rule(name="ernie4_5-moe", step_key="interleave_moe_layer_step"),
    Rule(name="hunyuan-moe"),
    Rule(name="hunyuan-dense"),
    Rule(name="hunyuan_vl"),
    Rule(name="hy_v3"),
    Rule(name="bailingmoe", output=OUTPUT),
    Rule(name="bailingmoe2", router=True, output=OUTPUT),
    Rule(name="bailingmoe3", router=True, recurrence=HEADLESS, needs=BOTH_KINDS, rolls_back=True),
    Rule(name="dots1", shares_heads=False, router=True, output=OUTPUT),
    Rule(name="olmo2", window=Window(period=4), output=OUTPUT),
    Rule(name="mimo2", window=NAMED, unbounded=True, output=OUTPUT, uneven=True),
    Rule(name="cohere2", window=Window(period=4, mandatory=True), needs=WINDOWED),
    Rule(name="cohere2moe", window=Window(period=4, dense_first=True, mandatory=True), needs=WINDOWED),
    Rule(name="step35", window=NAMED, needs=WINDOWED, hidden="h_nextn", output=OUTPUT),
    Rule(name="kimi-linear", router=True, recurrence=HEADLESS, needs=BOTH_KINDS, output=OUTPUT),
    Rule(name="falcon-h1", states=CONVOLUTION, recurrence=Recurrence.BOTH),
    Rule(name="jamba", expansion=2, recurrence=HEADLESS, needs=BOTH_KINDS),
    Rule(name="mamba2", recurrence=Recurrence.ALL),
    AlwaysRoPE(
        name="smallthinker",
        router=True,
        step=4,
        window=Window(period=4, dense_first=True, size=4096),
        mistaken={4: "one with RoPE in every layer"},
    ),
    Rule(name="exaone4", mistaken={64: "EXAONE 4 32B, which alone has windows"}),
    Rule(name="exaone-moe", router=True, window=Window(period=4, mandatory=True), needs=WINDOWED, output=OUTPUT),
    Rule(name="granitemoe", only_first=("embedding_scale",)),
    Rule(name="granite_swa", window=NAMED, needs=WINDOWED, only_first=("embedding_scale",)),
    Rule(name="laguna", step=4, window=Window(period=4, dense_first=True)),
    Rule(name="qwen2vl", dropped=("n_deepstack_layers",)),
    Rule(name="qwen3vl", dropped=("n_deepstack_layers",)),
    Rule(name="qwen3vlmoe", dropped=("n_deepstack_layers",)),
    Rule(name="grok", after_first={"embedding_scale": 1.0}),
    ScaledByDepth(name="minicpm", after_first={"embedding_scale": 1.0}),
    Rule(name="arcee"),
    Rule(name="arctic"),
    Rule(name="chatglm"),
    Rule(name="command-r"),
    Rule(name="dbrx", output=OUTPUT),
    Rule(name="deepseek"),
    Rule(name="exaone"),
    Rule(name="falcon"),
    Rule(name="grovemoe"),
    Rule(name="internlm2", output=OUTPUT),
    Rule(name="mellum", window=Window(period=4), output=OUTPUT),
    Rule(name="nemotron", output=OUTPUT),
    Rule(name="olmo", norm=""),
    Rule(name="olmoe", output=OUTPUT),
    Rule(name="pangu-embedded"),
    Rule(name="phimoe", output=("output.weight", "output.bias")),
    Rule(name="plamo3", window=Window(period=8)),
    Rule(name="qwen2moe", output=OUTPUT),
    Rule(name="spark2_5", window=NAMED, needs=WINDOWED),
    Rule(name="stablelm", output=OUTPUT),
    Rule(name="starcoder2"),
)

_STREAMS = "several residual streams run between its layers, of which llama.cpp takes one"
#: Architectures that llama.cpp runs, but of which it cannot run a part.
IMPOSSIBLE = {
    **dict.fromkeys(("deepseek4", "glm5-next", "qwen4exp", "hy_v4"), _STREAMS),
    "kimi-k3": "its layers attend to the outputs of earlier ones",
    "minimax-01": "the decay of each layer follows from its number among all layers",
    "glm4": "llama.cpp takes no hidden states for it without sections of RoPE, and computes another RoPE with them",
    **dict.fromkeys(
        ("gemma", "gemma2", "afmoe"), "llama.cpp multiplies hidden states as if they were embeddings of tokens"
    ),
    "gemma3n": "every layer adds an embedding of the token, which later stages do not know",
    "minicpm3": "the scale of its residuals follows from the number of layers",
    "nanbeige": "its layers run several times",
    "granite-switch": "llama.cpp takes tokens only for it",
}


def architecture_of(name: str) -> Architecture:
    """Return the table's entry, or one that allows no cut."""
    return _by_name().get(name) or Architecture(name, IMPOSSIBLE.get(name, ""))


@cache
def _by_name() -> dict[str, Rule]:
    return {rule.name: rule for rule in RULES}
