"""What a shard of a model must differ in from the model itself, so that llama.cpp computes the same.

llama.cpp runs a range of layers as a model of its own, so anything that depends on a layer's *index* or on the *number*
of layers would silently change, or end the process. A rule says, as data, what has to be written out or left out.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ainet.models.architectures.layers import Recurrence, Window, full_attention_interval, layers_of
from ainet.models.gguf_values import Kind, Value

if TYPE_CHECKING:
    from ainet.models.architectures.layers import Layer
    from ainet.models.description import ModelDescription

#: Keys (after the architecture's name) that hold one item per layer when they are arrays.
PER_LAYER_KEYS = (
    "attention.head_count",
    "attention.head_count_kv",
    "attention.indexer.types",
    "attention.recurrent_layers",
    "attention.rope_pattern",
    "attention.sliding_window_pattern",
    "expert_feed_forward_length",
    "expert_used_count",
    "feed_forward_length",
    "swiglu_clamp_exp",
    "swiglu_clamp_shexp",
)
#: Arrays that have nothing to do with layers.
OTHER_ARRAYS = ("rope.dimension_sections",)
#: Tensors outside the layers that every stage needs (llama.cpp insists on the final norm, even where it is not used).
SHARED_TENSORS = (
    "output_norm.weight",
    "output_norm.bias",
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
)
#: Tensors outside the layers that only the first or the last stage needs.
OUTER_TENSORS = ("token_embd.weight", "output.weight", "output.bias", "output.scale")
#: A window that no context fills; llama.cpp multiplies it by the sequences, in 32 bits.
UNBOUNDED_WINDOW = 1 << 22


@dataclass(frozen=True)
class Architecture:
    """The rules for splitting models of one architecture.

    This class is for all that were not verified: it allows no cut.

    Attributes
    ----------
    name
        ``general.architecture``.
    reason
        Why models of this architecture cannot be split, where that is known.
    alone
        Whether llama.cpp lets sequences that share its cells see each other, so that there is one at a time.
    differs_on_gpu
        Whether stages on a GPU (CUDA) compute a little otherwise than the whole model there.
    rolls_back
        Whether llama.cpp can take the last tokens back out of the states of its layers.
    """

    name: str
    reason: str = ""
    alone: bool = False
    differs_on_gpu: bool = False
    rolls_back: bool = False

    def refusal(self, model: ModelDescription) -> str | None:
        """Return why the model cannot be split at all, or None."""
        return self.reason or f"splitting the architecture {self.name!r} was not verified"

    def refused_range(self, model: ModelDescription, first: int, last: int) -> str | None:
        """Return why the layers [first, last] cannot be a stage although both cuts are allowed, or None."""
        return None

    def cuts(self, model: ModelDescription) -> list[int]:
        """Return the layers at which a stage may begin, without layer 0."""
        return []

    def cuts_in_words(self, model: ModelDescription) -> str:
        """Return ``any``, ``multiples of N`` or ``no: REASON``."""
        return f"no: {self.refusal(model)}"

    def layers(self, model: ModelDescription) -> tuple[Layer, ...]:
        """Return what each layer is, and what it keeps of the sequences."""
        return layers_of(model, Recurrence.NONE, None)

    def input_scale(self, model: ModelDescription) -> float:
        """Return the factor on token embeddings that llama.cpp applies to tokens, but not to hidden states."""
        return 1.0

    def hidden_name(self, n_layers: int) -> str:
        """Return the name of the tensor that leaves the last layer."""
        return f"l_out-{n_layers - 1}"

    def shared_tensors(self, model: ModelDescription, first: int, last: int) -> Sequence[str]:
        """Return the tensors outside the layers that a stage needs wherever it stands."""
        return SHARED_TENSORS

    def placeholders(self, model: ModelDescription) -> Sequence[str]:
        """Return the tensors of the output on which llama.cpp insists, also where no output is computed."""
        return ()

    def metadata(self, model: ModelDescription, first: int, last: int) -> dict[str, Value]:
        """Return the metadata of a shard with the layers [first, last], without the vocabulary's."""
        return dict(model.metadata)


def _known_layers(rule: Rule, model: ModelDescription) -> tuple[Layer, ...]:
    """Return the layers, which manifests keep: a plan asks for each range of them."""
    known: tuple[Layer, ...] | None = getattr(model, "layers", None)
    return rule.layers(model) if known is None else known


def single(number: float) -> float:
    """Return the single-precision number that is nearest."""
    return float(struct.unpack("f", struct.pack("f", number))[0])


@dataclass(frozen=True)
class Needs:
    """Kinds of layers without which llama.cpp ends the process, so that every stage has one of each."""

    attention: bool = False
    recurrent: bool = False
    window: bool = False

    def lacking(self, layers: Sequence[Layer]) -> str | None:
        """Return which of them these layers lack, in words."""
        if self.attention and not any(layer.attends for layer in layers):
            return "attention"
        if self.recurrent and not any(layer.recurs for layer in layers):
            return "a recurrent state"
        if self.window and not any(layer.window for layer in layers):
            return "a sliding window"
        return None


BOTH_KINDS = Needs(attention=True, recurrent=True)
WINDOWED = Needs(window=True)


@dataclass(frozen=True, kw_only=True)
class Rule(Architecture):
    """An architecture that was read in llama.cpp's ``src/models`` and is tested at every cut that it allows.

    Attributes
    ----------
    step, step_key
        Cuts are allowed at multiples of it, and of this number of the metadata.
    needs
        Kinds of layers that each stage needs one of.
    least
        Layers that each stage has at least.
    mistaken
        Numbers of layers from which llama.cpp takes a stage for another model, and for which one.
    experts
        Whether the mixture-of-experts variant was verified, too.
    uniform
        Whether all layers have the same attention, with keys as long as values.
    rope_is_head
        Whether llama.cpp asserts that RoPE covers the whole head.
    recurrence, window
        How llama.cpp tells kinds of layers.
    unbounded
        Whether a stage without a windowed layer shall have windows that no context fills, instead of none.
    output
        The tensors of the output on which llama.cpp insists.
    shared
        Further tensors outside the layers that every stage needs.
    norm
        The tensor of the last norm; empty where that has no weights.
    hidden
        Name of the tensor that leaves the last layer; ``{}`` stands for its number.
    uneven
        Whether values may have another length than keys.
    router
        Whether llama.cpp insists on being told how experts are chosen.
    states, indexers
        Tensors of layers that keep a state, or have an indexer, which llama.cpp uses, but does not insist on.
    shares_heads
        Whether several attention heads may share one for keys and values.
    expansion
        Values of a state for each of a hidden state, where llama.cpp asserts it.
    scaled_input
        Whether llama.cpp multiplies looked-up embeddings, but not hidden states, by the square root of `n_embd`.
    only_first
        Keys that the first stage alone has.
    after_first
        Keys that all others have, with a value.
    dropped
        Keys that no stage has.
    """

    step: int = 1
    step_key: str = ""
    needs: Needs = Needs()
    least: int = 1
    mistaken: Mapping[int, str] = field(default_factory=dict)
    experts: bool = True
    uniform: bool = False
    rope_is_head: bool = False
    recurrence: Recurrence = Recurrence.NONE
    window: Window | None = None
    unbounded: bool = False
    output: Sequence[str] = ()
    shared: Sequence[str] = ()
    norm: str = "output_norm.weight"
    hidden: str = "l_out-{}"
    uneven: bool = False
    router: bool = False
    states: Sequence[str] = ()
    indexers: Sequence[str] = ()
    shares_heads: bool = True
    expansion: int = 0
    scaled_input: bool = False
    only_first: Sequence[str] = ()
    after_first: Mapping[str, float] = field(default_factory=dict)
    dropped: Sequence[str] = ()

    def refusal(self, model: ModelDescription) -> str | None:
        """Return why the model cannot be split at all, or None."""
        if model.n_layers < 2:
            return "it has a single layer"
        if model.n_layers <= self._step(model):
            return f"its layers are too few to be cut at multiples of {self._step(model)}"
        if model.number("expert_count", 0) and not self.experts:
            return f"mixture-of-experts models of the architecture {self.name!r} were not verified"
        known = {self.key(key) for key in (*PER_LAYER_KEYS, *OTHER_ARRAYS)}
        for key, value in model.metadata.items():
            if key.startswith(f"{self.name}.") and value.type == Kind.ARRAY and key not in known:
                return f"its metadata holds an array that is not known to belong to layers: {key}"
        if any(key.startswith("general.tensor_extra.") for key in model.metadata):
            return "its metadata names tensors, which have other names in a stage"
        causal = model.metadata.get(self.key("attention.causal"))
        if causal is not None and not causal.value:
            return "its attention is not causal"
        if model.n_layers in self.mistaken:
            return f"llama.cpp takes models of {model.n_layers} layers for {self.mistaken[model.n_layers]}"
        for tensor in model.tensors:
            if tensor.layer is None and tensor.name not in (*SHARED_TENSORS, *self.shared, *OUTER_TENSORS):
                return f"it has a tensor that belongs to no layer: {tensor.name}"
        lacking = self.needs.lacking(_known_layers(self, model))
        return f"it has no layer with {lacking}" if lacking else None

    def refused_range(self, model: ModelDescription, first: int, last: int) -> str | None:
        """Return why the layers [first, last] cannot be a stage although both cuts are allowed, or None."""
        n = last - first + 1
        if n < self.least:
            return f"it needs at least {self.least} layers"
        if n in self.mistaken:
            return f"llama.cpp would take a stage of {n} layers for {self.mistaken[n]}"
        if lacking := self.needs.lacking(_known_layers(self, model)[first : last + 1]):
            return f"none of them has {lacking}, without which llama.cpp cannot run them"
        if model.number("expert_count", 0) and not any(model.layer_numbers("expert_used_count")[first : last + 1]):
            return "none of them uses experts, without which llama.cpp cannot run them"
        return None

    def cuts(self, model: ModelDescription) -> list[int]:
        """Return the layers at which a stage may begin, without layer 0."""
        if self.refusal(model):
            return []
        step, n, layers = self._step(model), model.n_layers, _known_layers(self, model)
        return [
            cut
            for cut in range(step, n, step)
            if self.least <= cut <= n - self.least
            and not self.needs.lacking(layers[:cut])
            and not self.needs.lacking(layers[cut:])
            and self._begins(model, cut)
        ]

    def cuts_in_words(self, model: ModelDescription) -> str:
        """Return ``any``, ``multiples of N``, where a kind of layer is needed, or ``no: REASON``."""
        reason = self.refusal(model)
        if reason:
            return f"no: {reason}"
        words = "any" if self._step(model) == 1 else f"multiples of {self._step(model)}"
        kinds = (
            (f"{self.least} layers", self.least > 1),
            ("attention", self.needs.attention),
            ("a recurrent state", self.needs.recurrent),
            ("a sliding window", self.needs.window),
        )
        needed = [kind for kind, is_needed in kinds if is_needed]
        return f"{words}, with {' and '.join(needed)} in each stage" if needed else words

    def layers(self, model: ModelDescription) -> tuple[Layer, ...]:
        """Return what each layer is, and what it keeps of the sequences."""
        return layers_of(model, self.recurrence, self.window)

    def input_scale(self, model: ModelDescription) -> float:
        """Return the factor on token embeddings that llama.cpp applies to tokens, but not to hidden states."""
        if not self.scaled_input:
            return 1.0
        return single(math.sqrt(model.n_embd))

    def hidden_name(self, n_layers: int) -> str:
        """Return the name of the tensor that leaves the last layer."""
        return self.hidden.format(n_layers - 1)

    def shared_tensors(self, model: ModelDescription, first: int, last: int) -> Sequence[str]:
        """Return the tensors outside the layers that a stage needs wherever it stands."""
        return (*SHARED_TENSORS, *self.shared)

    def placeholders(self, model: ModelDescription) -> Sequence[str]:
        """Return the tensors of the output on which llama.cpp insists, also where no output is computed."""
        return self.output

    def key(self, name: str) -> str:
        """Return the full name of one of the architecture's metadata keys."""
        return f"{self.name}.{name}"

    def metadata(self, model: ModelDescription, first: int, last: int) -> dict[str, Value]:
        """Return the metadata of a shard with the layers [first, last], without the vocabulary's."""
        found = dict(model.metadata)
        n = last - first + 1
        found[self.key("block_count")] = Value.of(Kind.UINT32, n)
        if self.key("nextn_predict_layers") in found:
            found[self.key("nextn_predict_layers")] = Value.of(Kind.UINT32, 0)
        for name in (*self.dropped, *(self.only_first if first else ())):
            found.pop(self.key(name), None)
        for name, number in (self.after_first if first else {}).items():
            found[self.key(name)] = Value.of(Kind.FLOAT32, number)
        for name in PER_LAYER_KEYS:
            value = found.get(self.key(name))
            if value is not None and value.type == Kind.ARRAY:
                found[self.key(name)] = value.part(first, last)
        lead = self.key("leading_dense_block_count")
        if lead in found:
            dense = model.number("leading_dense_block_count", 0)
            found[lead] = Value.of(Kind.UINT32, max(0, min(dense - first, n)))
        self._write_heads(model, found)
        self._write_kinds(model, found, first, last)
        return found

    def _step(self, model: ModelDescription) -> int:
        return math.lcm(self.step, max(1, model.number(self.step_key, 1)) if self.step_key else 1)

    def _begins(self, model: ModelDescription, layer: int) -> bool:
        """Whether a stage may begin at this layer, as far as that depends on the model."""
        return True

    def _write_heads(self, model: ModelDescription, found: dict[str, Value]) -> None:
        """Write out what llama.cpp would derive from the number of heads of the first layer."""
        if len(set(model.layer_numbers("attention.head_count"))) > 1:
            for name, number in (
                ("attention.key_length", model.key_length),
                ("attention.value_length", model.value_length),
                ("rope.dimension_count", model.number("rope.dimension_count", model.key_length)),
            ):
                found[self.key(name)] = Value.of(Kind.UINT32, number)

    def _write_kinds(self, model: ModelDescription, found: dict[str, Value], first: int, last: int) -> None:
        """Write out which layers are recurrent, and which have a window: llama.cpp would count from the first one."""
        if self.recurrence is Recurrence.INTERVAL and self.key("attention.recurrent_layers") not in found:
            found.pop(self.key("full_attention_interval"), None)
            interval = full_attention_interval(model)
            recurrent = [(layer + 1) % interval != 0 for layer in range(first, last + 1)]
            found[self.key("attention.recurrent_layers")] = Value.array(Kind.BOOL, recurrent)
        windows = [layer.window for layer in self.layers(model)]
        if self.window is None or not any(windows):
            return
        window, pattern = self.key("attention.sliding_window"), self.key("attention.sliding_window_pattern")
        own = [size > 0 for size in windows[first : last + 1]]
        found[pattern] = Value.array(Kind.BOOL, own)
        if any(own):
            return
        # Without a windowed layer llama.cpp would end the process.
        if not self.unbounded:
            del found[pattern]
            found.pop(window, None)
            return
        found[pattern] = Value.array(Kind.BOOL, [True] * len(own))
        found[window] = Value.of(Kind.UINT32, UNBOUNDED_WINDOW)
        for name in ("attention.key_length", "attention.value_length", "rope.dimension_count", "rope.freq_base"):
            if self.key(name) in found:
                found[self.key(f"{name}_swa")] = found[self.key(name)]
            else:
                found.pop(self.key(f"{name}_swa"), None)
