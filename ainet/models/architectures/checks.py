"""What llama.cpp would answer with an assertion, or take without a word, is refused before it sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ainet.errors import ModelError
from ainet.models.architectures.layers import full_indexers
from ainet.models.gguf_values import F32, TENSOR_TYPES, Kind

if TYPE_CHECKING:
    from ainet.models.architectures.rules import Rule
    from ainet.models.description import ModelDescription

ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
INTEGER_TYPES = ("I8", "I16", "I32", "I64", "F64")
#: Any number of the metadata that is a size: no model has larger ones.
MAX_SIZE = 1 << 24


def validate(rule: Rule, model: ModelDescription) -> None:
    """Raise `ModelError` unless llama.cpp survives the model."""
    _check_tensors(rule, model)
    for key in rule.per_layer:
        value = model.metadata.get(rule.key(key))
        if value is not None and value.type == Kind.ARRAY and len(value) != model.n_blocks:
            wrong(f"{rule.key(key)} has {len(value)} items for {model.n_blocks} layers")
    if model.number("expert_count", 0) and rule.uniform and min(model.layer_numbers("expert_used_count")) < 1:
        wrong("A layer uses none of its experts")
    for name in ("layer_norm_rms_epsilon", "layer_norm_epsilon"):
        epsilon = model.metadata.get(rule.key(f"attention.{name}"))
        if epsilon is not None and (epsilon.type != Kind.FLOAT32 or not 0 <= epsilon.value < 1):
            wrong("The epsilon of the norms is missing or impossible")
    scaling = model.metadata.get(rule.key("rope.scaling.type"))
    if scaling is not None and scaling.value not in ROPE_SCALINGS:
        wrong(f"RoPE scaling {str(scaling.value)[:40]!r} is unknown")
    window = model.number("attention.sliding_window", 0)
    if window >= MAX_SIZE:
        wrong("The sliding window is impossibly long")
    needs_window = rule.window is not None and (window or rule.window.mandatory)
    if needs_window and not any(layer.window for layer in rule.layers(model)):
        wrong("It has a sliding window, but no layer that uses it")
    indexers = full_indexers(model)
    if model.architecture == "glm-dsa" and indexers is not None and not indexers[0]:
        wrong("Its first layer has no indexer, whose choice it could take")
    (_check_uniform if rule.uniform else _check_attention)(rule, model)


def _check_tensors(rule: Rule, model: ModelDescription) -> None:
    shapes = {tensor.name: tensor.shape for tensor in model.tensors}
    for name in ("token_embd.weight", rule.norm, *rule.output):
        if name and name not in shapes:
            wrong(f"The tensor {name} is missing")
    table = shapes["token_embd.weight"]
    if len(table) != 2 or table[0] != model.n_embd:
        wrong(f"Embeddings have {model.n_embd} values, but token_embd.weight has the shape {list(table)}")
    layers = {tensor.layer for tensor in model.tensors if tensor.layer is not None}
    if not set(range(model.n_layers)) <= layers:
        wrong(f"The metadata names {model.n_layers} layers, but the tensors belong to {len(layers)}")
    for tensor in model.tensors:
        name = TENSOR_TYPES[tensor.type].name
        if name in INTEGER_TYPES or (len(tensor.shape) == 1 and tensor.type != F32):
            wrong(f"The tensor {tensor.name} has the type {name}, with which llama.cpp cannot compute")


def _check_attention(rule: Rule, model: ModelDescription) -> None:
    """Check attention whose heads differ between kinds of layers."""
    heads, shared = model.layer_numbers("attention.head_count"), model.n_head_kv
    attending = [layer for layer, kind in enumerate(rule.layers(model)) if kind.attends]
    for layer in attending:
        if heads[layer] < 1 or shared[layer] < 1 or heads[layer] % shared[layer]:
            wrong(f"{heads[layer]} attention heads cannot share {shared[layer]} key-value heads")
    if attending and not heads[0]:
        wrong("Its first layer has no attention heads, from which llama.cpp takes their length")
    for suffix in ("", "_swa"):
        key = model.number(f"attention.key_length{suffix}", model.key_length)
        value = model.number(f"attention.value_length{suffix}", model.value_length)
        if attending and not (0 < key < MAX_SIZE and 0 < value < MAX_SIZE):
            wrong(f"Attention heads have {key} and {value} values")
        n_rot = model.number(f"rope.dimension_count{suffix}", model.number("rope.dimension_count", key))
        if attending and (n_rot % 2 or n_rot > key or (rule.rope_is_head and n_rot != key)):
            wrong(f"RoPE covers {n_rot} of a head's {key} values")
    compressed = [model.number(f"attention.{name}_length_mla", 0) for name in ("key", "value")]
    if any(compressed) and not all(compressed):
        wrong("Its compressed attention lacks the length of keys or of values")


def _check_uniform(rule: Rule, model: ModelDescription) -> None:
    """Check attention that is the same in all layers."""
    shapes = {tensor.name for tensor in model.tensors}
    for layer in range(model.n_layers):
        fused, *parts = (f"blk.{layer}.attn_{part}.weight" in shapes for part in ("qkv", "q", "k", "v"))
        if not fused and not all(parts):
            wrong(f"Layer {layer} lacks attention weights")
    heads = model.layer_numbers("attention.head_count")
    if len(set(heads)) > 1 or len(set(model.n_head_kv)) > 1:
        wrong("Its layers have different numbers of attention heads")
    if heads[0] < 1 or model.n_head_kv[0] < 1 or heads[0] % model.n_head_kv[0]:
        wrong(f"{heads[0]} attention heads cannot share {model.n_head_kv[0]} key-value heads")
    if any(count < 1 for count in model.layer_numbers("feed_forward_length")):
        wrong("A feed-forward length is zero")
    n_rot = model.number("rope.dimension_count", model.key_length)
    if model.key_length < 1 or model.key_length % 2 or model.key_length != model.value_length:
        wrong(f"Attention heads have {model.key_length} and {model.value_length} values")
    if n_rot % 2 or not 1 <= n_rot <= model.key_length or (rule.rope_is_head and n_rot != model.key_length):
        wrong(f"RoPE covers {n_rot} of a head's {model.key_length} values")
    for name in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        usual = n_rot if name == "rope.dimension_count" else model.key_length
        if model.number(f"{name}_swa", usual) != usual:
            wrong(f"Layers with a sliding window differ from the others in {name}")
    if rule.key("attention.layer_norm_rms_epsilon") not in model.metadata:
        wrong("The epsilon of the norms is missing or impossible")


def wrong(what: str) -> NoReturn:
    """Raise the error for a model that nobody can run."""
    raise ModelError(f"{what}.")
