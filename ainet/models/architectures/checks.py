"""What llama.cpp would answer with an assertion, or take without a word, is refused before it sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ainet.errors import ModelError
from ainet.models.architectures.layers import Recurrence, full_indexers
from ainet.models.architectures.rules import PER_LAYER_KEYS
from ainet.models.description import MAX_LAYERS
from ainet.models.gguf_values import F32, TENSOR_TYPES, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.models.architectures.rules import Rule
    from ainet.models.description import ModelDescription

ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
INTEGER_TYPES = ("I8", "I16", "I32", "I64", "F64")
#: ``enum llama_expert_gating_func_type`` of llama-hparams.h.
MAX_GATING = 4
#: Any number of the metadata that is a size: no model has larger ones.
MAX_SIZE = 1 << 24


def validate(rule: Rule, model: ModelDescription) -> None:
    """Raise `ModelError` unless llama.cpp survives the model."""
    _check_tensors(rule, model)
    for key in PER_LAYER_KEYS:
        value = model.metadata.get(rule.key(key))
        # Some leave out the layers that predict further tokens.
        if value is not None and value.type == Kind.ARRAY and len(value) not in (model.n_blocks, model.n_layers):
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
    _check_experts(rule, model)
    window = model.number("attention.sliding_window", 0)
    if window >= MAX_SIZE:
        wrong("The sliding window is impossibly long")
    needs_window = rule.window is not None and (window or rule.window.mandatory)
    if needs_window and not any(layer.window for layer in rule.layers(model)):
        wrong("It has a sliding window, but no layer that uses it")
    if rule.indexers:
        _check_indexers(rule, model)
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


def _check_experts(rule: Rule, model: ModelDescription) -> None:
    gating, experts = model.number("expert_gating_func", 0), model.number("expert_count", 0)
    if gating > MAX_GATING or (rule.router and experts and not gating):
        wrong(f"Its experts are chosen by the unknown function {gating}")
    if rule.step_key and experts and not model.number(rule.step_key, 1):
        wrong("No layer has its experts")
    group = model.number("experts_per_group", 1)
    if group < 1 or (group > 1 and max(model.layer_numbers("expert_used_count")) > experts // group):
        wrong(f"Groups of {group} experts cannot be used")


def _check_indexers(rule: Rule, model: ModelDescription) -> None:
    """Check attention to tokens that an indexer chooses, which not every layer has."""
    indexers = full_indexers(model)
    if indexers is None or not indexers[0]:
        wrong("Its first layer has no indexer, whose choice it could take")
    _check_named(model, rule.indexers, [layer for layer, full in enumerate(indexers) if full])


def _check_named(model: ModelDescription, wanted: Sequence[str], layers: Sequence[int]) -> None:
    """Check that layers have all tensors that are wanted of them; ``a|b`` is one of two."""
    names = {tensor.name for tensor in model.tensors}
    for layer in layers:
        if not all(any(f"blk.{layer}.{one}" in names for one in name.split("|")) for name in wanted):
            wrong(f"Layer {layer} lacks {' or '.join(wanted)}")


def _check_attention(rule: Rule, model: ModelDescription) -> None:
    """Check attention whose heads differ between kinds of layers."""
    heads, shared = model.layer_numbers("attention.head_count"), model.n_head_kv
    attending = [layer for layer, kind in enumerate(rule.layers(model)) if kind.attends]
    for layer in attending:
        if (
            heads[layer] < 1
            or shared[layer] < 1
            or heads[layer] % shared[layer]
            or (heads[layer] != shared[layer] and not rule.shares_heads)
        ):
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
    key, value = (model.number(f"attention.{name}_length_mla", 0) for name in ("key", "value"))
    if key or value:
        _check_compressed(model, key, value, shared={shared[layer] for layer in attending})
    elif model.number("attention.kv_lora_rank", 0):  # keys that were compressed, but are kept as they are
        if [heads[layer] for layer in attending] != [shared[layer] for layer in attending]:
            wrong(f"{heads[0]} attention heads cannot share {shared[0]} key-value heads")
        if model.number("rope.dimension_count", model.key_length) >= model.key_length:
            wrong(f"RoPE covers all of a head's {model.key_length} values")
    elif attending and not rule.uneven:
        for suffix in ("", "_swa"):
            key = model.number(f"attention.key_length{suffix}", model.key_length)
            if model.number(f"attention.value_length{suffix}", model.value_length) != key:
                wrong(f"Keys have {key} values, but not values")
    _check_states(rule, model)


def _check_compressed(model: ModelDescription, key: int, value: int, *, shared: set[int]) -> None:
    """Check attention with compressed keys (MLA)."""
    rank, n_rot = model.number("attention.kv_lora_rank", 0), model.number("rope.dimension_count", 0)
    if not value or key <= n_rot or model.key_length != rank + n_rot or shared - {1}:
        wrong(f"Keys of {model.key_length} values cannot be made of {rank} compressed ones and {n_rot} for RoPE")


def _check_states(rule: Rule, model: ModelDescription) -> None:
    """Check layers that keep a state, whose shapes llama.cpp derives from each other."""
    if rule.recurrence is Recurrence.INTERVAL:
        inner, state = model.number("ssm.inner_size", 0), model.number("ssm.state_size", 0)
        heads, groups = model.number("ssm.time_step_rank", 0), model.number("ssm.group_count", 0)
        if not groups or heads % groups or inner != state * heads or not inner:
            wrong(f"States of {inner} values cannot belong to {heads} heads of {state}")
        if model.number("full_attention_interval", 4) < 1:
            wrong("It has no interval of attention")
    if rule.expansion and model.number("ssm.inner_size", 0) != rule.expansion * model.n_embd:
        wrong(f"States do not have {rule.expansion} values for each of the {model.n_embd} of a hidden state")
    bound = model.metadata.get(rule.key("kda.gate_lower_bound"))
    if bound is not None and not bound.value < 0:
        wrong("The gate of its states has no bound below 0")
    if model.number("attention.indexer.block_size", 1) < 1 or model.number("n_deepstack_layers", 0) > MAX_LAYERS:
        wrong("Its attention has impossible sizes")
    _check_named(model, rule.states, [number for number, layer in enumerate(rule.layers(model)) if layer.recurs])


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
