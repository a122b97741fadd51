"""The few architectures of which data alone does not say all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ainet.models.architectures.layers import full_indexers
from ainet.models.architectures.rules import Rule, single
from ainet.models.gguf_values import Kind, Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.models.description import ModelDescription


class Sectioned(Rule):
    """GLM-4.5: llama.cpp takes hidden states only with RoPE in sections; with equal positions they change nothing."""

    def metadata(self, model: ModelDescription, first: int, last: int) -> dict[str, Value]:
        """Return the metadata with sections."""
        found = super().metadata(model, first, last)
        quarter = model.number("rope.dimension_count", model.key_length) // 4
        found.setdefault(self.key("rope.dimension_sections"), Value.array(Kind.INT32, [quarter, quarter, 0, 0]))
        return found


class Compressed(Rule):
    """DeepSeek-V2 and what is built like it: the number of layers decides about queries and the router."""

    #: Layers that "lite" models have, whose queries are not compressed; the last with this vocabulary only.
    LITE, LITE_BY_VOCABULARY = (26, 27), (48, 128_256)
    #: GLM-4.7-Flash, whose router is another one where the file does not say which.
    SIGMOID_LAYERS, SIGMOID_VOCABULARY = (47, 48), 154_880
    SOFTMAX, SIGMOID = 1, 2

    def refused_range(self, model: ModelDescription, first: int, last: int) -> str | None:
        """Return why these layers cannot be a stage: not when llama.cpp would take them for a lite model."""
        n = last - first + 1
        if not self._is_lite(model, model.n_layers) and self._is_lite(model, n):
            return f"llama.cpp would take a stage of {n} layers for a lite model"
        return super().refused_range(model, first, last)

    def metadata(self, model: ModelDescription, first: int, last: int) -> dict[str, Value]:
        """Return the metadata with what follows from the number of layers written out."""
        found = super().metadata(model, first, last)
        if self._is_lite(model, model.n_layers):
            found[self.key("attention.q_lora_rank")] = Value.of(Kind.UINT32, 0)
        if not model.number("expert_gating_func", 0):
            sigmoid = model.n_layers in self.SIGMOID_LAYERS and model.n_vocab == self.SIGMOID_VOCABULARY
            gating = self.SIGMOID if sigmoid else self.SOFTMAX
            found[self.key("expert_gating_func")] = Value.of(Kind.UINT32, gating)
        return found

    def _is_lite(self, model: ModelDescription, n_layers: int) -> bool:
        return n_layers in self.LITE or (n_layers, model.n_vocab) == self.LITE_BY_VOCABULARY


class SharedIndexers(Rule):
    """GLM-5: layers without an indexer of their own take the choice of an earlier one."""

    def metadata(self, model: ModelDescription, first: int, last: int) -> dict[str, Value]:
        """Return the metadata with the layers that have an indexer."""
        found = super().metadata(model, first, last)
        own = (full_indexers(model) or [])[first : last + 1]
        found[self.key("attention.indexer.types")] = Value.array(Kind.UINT32, [int(full) for full in own])
        return found

    def cuts_in_words(self, model: ModelDescription) -> str:
        """Return ``any``, or where there are indexers."""
        words = super().cuts_in_words(model)
        return "before layers with an indexer" if words == "any" and not all(full_indexers(model) or [True]) else words

    def _begins(self, model: ModelDescription, layer: int) -> bool:
        indexers = full_indexers(model)
        return indexers is None or indexers[layer]


class DenseFirst(Rule):
    """MiniMax-M3: no stage without a layer of sparse attention, which the first layers do not have."""

    def refused_range(self, model: ModelDescription, first: int, last: int) -> str | None:
        """Return why these layers cannot be a stage."""
        if last < model.number("leading_dense_block_count", 0):
            return "none of them has sparse attention, without which llama.cpp cannot run them"
        return super().refused_range(model, first, last)

    def _begins(self, model: ModelDescription, layer: int) -> bool:
        return layer > model.number("leading_dense_block_count", 0)


class Gemma4(Rule):
    """Gemma 4: small models add an embedding of the token in every layer, where hidden states have no token."""

    def refusal(self, model: ModelDescription) -> str | None:
        """Return why the model cannot be split at all, or None."""
        if model.number("embedding_length_per_layer_input", 0):
            return "every layer adds an embedding of the token, which later stages do not know"
        if model.number("attention.shared_kv_layers", 0):
            return "its last layers use the keys and values of earlier ones"
        return super().refusal(model)

    def shared_tensors(self, model: ModelDescription, first: int, last: int) -> Sequence[str]:
        """Return the tensors outside the layers: RoPE factors only where a layer without a window uses them."""
        found = super().shared_tensors(model, first, last)
        if all(layer.window for layer in self.layers(model)[first : last + 1]):
            return [name for name in found if name != "rope_freqs.weight"]
        return found


class AlwaysRoPE(Rule):
    """Architectures that skip RoPE in each n-th layer, unless their file says that there is no window."""

    def refusal(self, model: ModelDescription) -> str | None:
        """Return why the model cannot be split at all, or None."""
        if not any(layer.window for layer in self.layers(model)):
            return "without a sliding window llama.cpp counts the layers to tell which have RoPE"
        return super().refusal(model)


class ScaledByDepth(Rule):
    """MiniCPM: the scale of residuals follows from the number of layers, unless it is written down."""

    def metadata(self, model: ModelDescription, first: int, last: int) -> dict[str, Value]:
        """Return the metadata with the scale of residuals."""
        found = super().metadata(model, first, last)
        # 1.4f / sqrtf(n_layers): another last bit would change what every layer adds.
        scale = single(1.4) / single(math.sqrt(model.n_layers))
        found.setdefault(self.key("residual_scale"), Value.of(Kind.FLOAT32, scale))
        return found
