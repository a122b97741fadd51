"""Which architectures may be split between devices, and at which layers.

llama.cpp runs a range of layers as a model of its own, so anything that depends on a layer's *index* or on the *number*
of layers would silently change. Each entry here was read in llama.cpp's ``src/models/<name>.cpp`` and is tested on
random weights at every cut that it allows: the difference is exactly 0. All others run whole, on one device.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, NoReturn

from ainet.errors import ModelError
from ainet.models.gguf_values import F32, TENSOR_TYPES, Kind, Value

if TYPE_CHECKING:
    from ainet.models.description import ModelDescription

#: Keys (after the architecture's name) that hold one item per layer when they are arrays.
PER_LAYER_KEYS = (
    "attention.head_count",
    "attention.head_count_kv",
    "attention.sliding_window_pattern",
    "expert_feed_forward_length",
    "expert_used_count",
    "feed_forward_length",
)
#: Tensors outside the layers that every stage needs (llama.cpp insists on the final norm, even where it is not used).
SHARED_TENSORS = (
    "output_norm.weight",
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
)
#: Tensors outside the layers that only the first or the last stage needs.
OUTER_TENSORS = ("token_embd.weight", "output.weight", "output.bias")
ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
INTEGER_TYPES = ("I8", "I16", "I32", "I64", "F64")


class Architecture:
    """The rules for splitting models of one architecture.

    This class is for all that were not verified: it allows no cut. Subclasses are entries of the table.

    Attributes
    ----------
    name
        ``general.architecture``.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def refusal(self, model: ModelDescription) -> str | None:
        """Return why the model cannot be split at all, or None."""
        return f"splitting the architecture {self.name!r} was not verified"

    def refused_range(self, model: ModelDescription, first: int, last: int) -> str | None:
        """Return why the layers [first, last] cannot be a stage although both cuts are allowed, or None."""
        return None

    def cuts(self, model: ModelDescription) -> list[int]:
        """Return the layers at which a stage may begin, without layer 0."""
        return []

    def cuts_in_words(self, model: ModelDescription) -> str:
        """Return ``any``, ``multiples of N`` or ``no: REASON``."""
        return f"no: {self.refusal(model)}"

    def input_scale(self, model: ModelDescription) -> float:
        """Return the factor on token embeddings that llama.cpp applies to tokens, but not to hidden states."""
        return 1.0

    def metadata(self, model: ModelDescription, first: int, last: int) -> dict[str, Value]:
        """Return the metadata of a shard with the layers [first, last], without the vocabulary's."""
        return dict(model.metadata)

    def validate(self, model: ModelDescription) -> None:
        """Raise `ModelError` for what llama.cpp would not survive."""


class Transformer(Architecture):
    """A decoder whose layers do not know their index: any cut.

    Parameters
    ----------
    name
        ``general.architecture``.
    step
        Cuts are allowed at multiples of it.
    rope_is_head
        Whether llama.cpp asserts that RoPE covers the whole head.
    experts
        Whether the mixture-of-experts variant was verified, too.
    """

    def __init__(self, name: str, *, step: int = 1, rope_is_head: bool = True, experts: bool = False) -> None:
        super().__init__(name)
        self.step = step
        self.rope_is_head = rope_is_head
        self.experts = experts

    def refusal(self, model: ModelDescription) -> str | None:
        """Return why the model cannot be split at all, or None."""
        if model.n_layers < 2:
            return "it has a single layer"
        if model.n_layers <= self.step:
            return f"its layers are too few to be cut at multiples of {self.step}"
        if model.number("expert_count", 0) and not self.experts:
            return f"mixture-of-experts models of the architecture {self.name!r} were not verified"
        if model.number("nextn_predict_layers", 0):
            return "it has layers that predict further tokens"
        known = {self.key(key) for key in PER_LAYER_KEYS}
        for key, value in model.metadata.items():
            if key.startswith(f"{self.name}.") and value.type == Kind.ARRAY and key not in known:
                return f"its metadata holds an array that is not known to belong to layers: {key}"
        causal = model.metadata.get(self.key("attention.causal"))
        if causal is not None and not causal.value:
            return "its attention is not causal"
        for tensor in model.tensors:
            if tensor.layer is None and tensor.name not in (*SHARED_TENSORS, *OUTER_TENSORS):
                return f"it has a tensor that belongs to no layer: {tensor.name}"
        return None

    def cuts(self, model: ModelDescription) -> list[int]:
        """Return the multiples of `step`."""
        return [] if self.refusal(model) else list(range(self.step, model.n_layers, self.step))

    def cuts_in_words(self, model: ModelDescription) -> str:
        """Return ``any``, ``multiples of N`` or ``no: REASON``."""
        reason = self.refusal(model)
        if reason:
            return f"no: {reason}"
        return "any" if self.step == 1 else f"multiples of {self.step}"

    def key(self, name: str) -> str:
        """Return the full name of one of the architecture's metadata keys."""
        return f"{self.name}.{name}"

    def metadata(self, model: ModelDescription, first: int, last: int) -> dict[str, Value]:
        """Return the metadata with the number of layers, and the items of per-layer arrays, of the range."""
        found = dict(model.metadata)
        found[self.key("block_count")] = Value.of(Kind.UINT32, last - first + 1)
        for name in PER_LAYER_KEYS:
            value = found.get(self.key(name))
            if value is not None and value.type == Kind.ARRAY:
                found[self.key(name)] = value.part(first, last)
        return found

    def validate(self, model: ModelDescription) -> None:
        """Raise `ModelError` for what llama.cpp answers with an assertion, or takes without a word."""
        n_layers, n_embd = model.n_layers, model.n_embd
        shapes = {tensor.name: tensor.shape for tensor in model.tensors}
        for name in ("token_embd.weight", "output_norm.weight"):
            if name not in shapes:
                _wrong(f"The tensor {name} is missing")
        table = shapes["token_embd.weight"]
        if len(table) != 2 or table[0] != n_embd:
            _wrong(f"Embeddings have {n_embd} values, but token_embd.weight has the shape {list(table)}")
        layers = {tensor.layer for tensor in model.tensors} - {None}
        if layers != set(range(n_layers)):
            _wrong(f"The metadata names {n_layers} layers, but the tensors belong to {len(layers)}")
        for key in PER_LAYER_KEYS:
            value = model.metadata.get(self.key(key))
            if value is not None and value.type == Kind.ARRAY and len(value) != n_layers:
                _wrong(f"{self.key(key)} has {len(value)} items for {n_layers} layers")
        for layer in range(n_layers):
            fused, *parts = (f"blk.{layer}.attn_{part}.weight" in shapes for part in ("qkv", "q", "k", "v"))
            if not fused and not all(parts):
                _wrong(f"Layer {layer} lacks attention weights")
        if model.number("expert_count", 0) and min(model.layer_numbers("expert_used_count")) < 1:
            _wrong("A layer uses none of its experts")
        self._validate_attention(model)
        for tensor in model.tensors:
            name = TENSOR_TYPES[tensor.type].name
            if name in INTEGER_TYPES or (len(tensor.shape) == 1 and tensor.type != F32):
                _wrong(f"The tensor {tensor.name} has the type {name}, with which llama.cpp cannot compute")

    def _validate_attention(self, model: ModelDescription) -> None:
        heads = model.layer_numbers("attention.head_count")
        if len(set(heads)) > 1 or len(set(model.n_head_kv)) > 1:
            _wrong("Its layers have different numbers of attention heads")
        if heads[0] < 1 or model.n_head_kv[0] < 1 or heads[0] % model.n_head_kv[0]:
            _wrong(f"{heads[0]} attention heads cannot share {model.n_head_kv[0]} key-value heads")
        if any(count < 1 for count in model.layer_numbers("feed_forward_length")):
            _wrong("A feed-forward length is zero")
        n_rot = model.number("rope.dimension_count", model.key_length)
        if model.key_length < 1 or model.key_length % 2 or model.key_length != model.value_length:
            _wrong(f"Attention heads have {model.key_length} and {model.value_length} values")
        if n_rot % 2 or not 1 <= n_rot <= model.key_length or (self.rope_is_head and n_rot != model.key_length):
            _wrong(f"RoPE covers {n_rot} of a head's {model.key_length} values")
        for name in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
            usual = n_rot if name == "rope.dimension_count" else model.key_length
            if model.number(f"{name}_swa", usual) != usual:
                _wrong(f"Layers with a sliding window differ from the others in {name}")
        epsilon = model.metadata.get(self.key("attention.layer_norm_rms_epsilon"))
        if epsilon is None or epsilon.type != Kind.FLOAT32 or not 0 <= epsilon.value < 1:
            _wrong("The epsilon of the norms is missing or impossible")
        scaling = model.metadata.get(self.key("rope.scaling.type"))
        if scaling is not None and scaling.value not in ROPE_SCALINGS:
            _wrong(f"RoPE scaling {str(scaling.value)[:40]!r} is unknown")
        if model.number("attention.sliding_window", 0) >= 1 << 24:
            _wrong("The sliding window is impossibly long")


class Gemma3(Transformer):
    """Gemma 3: the index of a layer decides between local and global attention.

    llama.cpp reads a written-out pattern in its place. With 62 layers it takes another attention scale (27B).
    """

    ODD_SCALE_LAYERS = 62
    PATTERN = 6

    def refusal(self, model: ModelDescription) -> str | None:
        """Return why the model cannot be split at all, or None."""
        if model.n_layers == self.ODD_SCALE_LAYERS:
            return f"llama.cpp derives gemma3's attention scale from its {self.ODD_SCALE_LAYERS} layers"
        return super().refusal(model)

    def refused_range(self, model: ModelDescription, first: int, last: int) -> str | None:
        """Return why a range of 62 layers cannot be a stage."""
        if last - first + 1 == self.ODD_SCALE_LAYERS:
            return f"llama.cpp would take a stage of {self.ODD_SCALE_LAYERS} layers for gemma3-27b"
        return None

    def input_scale(self, model: ModelDescription) -> float:
        """Return the square root of `n_embd`, which llama.cpp applies to tokens only."""
        # sqrtf(n_embd), a single-precision number.
        return float(struct.unpack("f", struct.pack("f", math.sqrt(model.n_embd)))[0])

    def metadata(self, model: ModelDescription, first: int, last: int) -> dict[str, Value]:
        """Return the metadata with the pattern of local and global attention written out.

        Without a local layer llama.cpp would end the process; without a window every layer is global.
        """
        found = super().metadata(model, first, last)
        local = self._local(model)[first : last + 1]
        if any(local):
            found[self.key("attention.sliding_window_pattern")] = Value.array(Kind.BOOL, local)
        else:
            found.pop(self.key("attention.sliding_window"), None)
        return found

    def validate(self, model: ModelDescription) -> None:
        """Raise `ModelError` for what llama.cpp answers with an assertion, or takes without a word."""
        super().validate(model)
        if model.number("attention.sliding_window", 0) and not any(self._local(model)):
            _wrong("It has a sliding window, but no layer that uses it")

    def _local(self, model: ModelDescription) -> list[bool]:
        """Return for each layer whether its attention is local (``llama_hparams::set_swa_pattern``)."""
        if not model.number("attention.sliding_window", 0):
            return [False] * model.n_layers
        value = model.metadata.get(self.key("attention.sliding_window_pattern"))
        if value is not None and value.type == Kind.ARRAY:
            return [bool(item) for item in value.value]
        pattern = model.number("attention.sliding_window_pattern", self.PATTERN)
        return [pattern == 0 or layer % pattern < pattern - 1 for layer in range(model.n_layers)]


class Granite(Transformer):
    """Granite: ``embedding_scale`` applies to hidden states as well, so only the first stage keeps it."""

    def metadata(self, model: ModelDescription, first: int, last: int) -> dict[str, Value]:
        """Return the metadata, without the factor on embeddings after the first stage."""
        found = super().metadata(model, first, last)
        if first > 0:
            found.pop(self.key("embedding_scale"), None)
        return found


def architecture_of(name: str) -> Architecture:
    """Return the table's entry, or one that allows no cut."""
    return next((entry for entry in _table() if entry.name == name), Architecture(name))


def _table() -> tuple[Architecture, ...]:
    return (
        Transformer("llama", experts=True),
        Transformer("qwen2"),
        Transformer("qwen3"),
        Transformer("qwen3moe", experts=True),
        Transformer("phi3", rope_is_head=False),
        Transformer("smollm3", step=4),  # every 4th layer has no RoPE, counted from the file's first
        Gemma3("gemma3", rope_is_head=False),
        Granite("granite"),
    )


def _wrong(what: str) -> NoReturn:
    raise ModelError(f"{what}.")
