"""The kinds of layers that a model has, and what each keeps of the sequences (``llama_hparams`` of llama.cpp)."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ainet.models.gguf_values import Kind

if TYPE_CHECKING:
    from ainet.models.description import ModelDescription

#: Bytes of a value in a cell of the KV cache (f16) and in a recurrent state (f32).
CELL_VALUE, STATE_VALUE = 2, 4


class Recurrence(StrEnum):
    """How llama.cpp tells the layers that keep a state instead of keys and values."""

    NONE = "none"
    ALL = "all layers"
    BOTH = "all layers, which attend as well"
    WITHOUT_HEADS = "no key-value heads"
    WITHOUT_HEADS_AND_FFN = "no key-value heads and no feed-forward length"
    INTERVAL = "all but every n-th"


class Window(msgspec.Struct, frozen=True):
    """How llama.cpp tells the layers whose attention slides over the last tokens only.

    Attributes
    ----------
    period
        Without a pattern in the file every layer has a window but each `period`-th; 0 where the file must name them.
    dense_first
        Whether the one without comes first in its period.
    size
        llama.cpp's own number of tokens, where it does not take the file's.
    always
        Whether there is a window although the file names none.
    mandatory
        Whether llama.cpp ends the process unless a layer has a window.
    """

    period: int = 0
    dense_first: bool = False
    size: int = 0
    always: bool = False
    mandatory: bool = False


class Layer(NamedTuple):
    """What one layer is and keeps.

    Attributes
    ----------
    attends, recurs
        Whether it keeps keys and values, or a state; some do both, some neither.
    window
        Tokens over which its attention reaches; 0 for all of them.
    cell
        Bytes of one token's keys and values.
    state
        Bytes of one sequence's state.
    """

    attends: bool
    recurs: bool
    window: int
    cell: int
    state: int


def layers_of(model: ModelDescription, recurrence: Recurrence, window: Window | None) -> tuple[Layer, ...]:
    """Return the layers of a model, without those that predict further tokens."""
    recurs = _recurrent(model, recurrence)
    windows = windows_of(model, window)
    state = STATE_VALUE * _state_values(model)
    found = []
    for layer in range(model.n_layers):
        attends = _attends(model, recurrence, layer, recurs=recurs[layer])
        cell = CELL_VALUE * _cell_values(model, layer, windowed=windows[layer] > 0) if attends else 0
        found.append(
            Layer(attends, recurs[layer], windows[layer] if attends else 0, cell, state if recurs[layer] else 0)
        )
    return tuple(found)


def windows_of(model: ModelDescription, window: Window | None) -> list[int]:
    """Return the window of each layer in tokens, 0 for none (``llama_hparams::set_swa_pattern``)."""
    key = f"{model.architecture}.attention.sliding_window"
    size = model.number("attention.sliding_window", 0)
    if window is None or (size == 0 and (key in model.metadata or not window.always)):
        return [0] * model.n_layers
    size = window.size or size
    pattern = model.metadata.get(f"{key}_pattern")
    if pattern is not None and pattern.type == Kind.ARRAY:
        return [size if item else 0 for item in pattern.value[: model.n_layers]]
    period = model.number("attention.sliding_window_pattern", window.period)
    full = 0 if window.dense_first else period - 1
    return [size if period == 0 or layer % period != full else 0 for layer in range(model.n_layers)]


def full_attention_interval(model: ModelDescription) -> int:
    """Return which layers of a model with gated delta nets attend: each n-th."""
    return max(1, model.number("full_attention_interval", 4))


def full_indexers(model: ModelDescription) -> list[bool] | None:
    """Return which layers choose the tokens that they attend to by an indexer of their own; None without indexers."""
    if not model.number("attention.indexer.key_length", 0):
        return None
    types = model.metadata.get(f"{model.architecture}.attention.indexer.types")
    if types is not None and types.type == Kind.ARRAY:
        return [bool(item) for item in types.value[: model.n_layers]]
    lead = model.number("leading_dense_block_count", 0) if model.architecture == "minimax-m3" else 0
    if model.architecture == "glm-dsa" and model.n_ctx_train >= GLM_5_2_CONTEXT:
        return [layer < 2 or (layer % 4 == 2 and layer < GLM_5_2_LAYERS) for layer in range(model.n_layers)]
    return [layer >= lead for layer in range(model.n_layers)]


#: From this context length on llama.cpp takes a model of ``glm-dsa`` for GLM-5.2, whose layers share indexers.
GLM_5_2_CONTEXT = 1 << 20
GLM_5_2_LAYERS = 78


def _recurrent(model: ModelDescription, recurrence: Recurrence) -> list[bool]:
    n = model.n_layers
    heads, ffn = model.n_head_kv, model.layer_numbers("feed_forward_length")
    if recurrence is Recurrence.INTERVAL:
        written = model.metadata.get(f"{model.architecture}.attention.recurrent_layers")
        if written is not None and written.type == Kind.ARRAY:
            return [bool(item) for item in written.value[:n]]
        interval = full_attention_interval(model)
        return [(layer + 1) % interval != 0 for layer in range(n)]
    if recurrence is Recurrence.WITHOUT_HEADS:
        return [heads[layer] == 0 for layer in range(n)]
    if recurrence is Recurrence.WITHOUT_HEADS_AND_FFN:
        return [heads[layer] == 0 and ffn[layer] == 0 for layer in range(n)]
    return [recurrence is not Recurrence.NONE] * n


def _attends(model: ModelDescription, recurrence: Recurrence, layer: int, *, recurs: bool) -> bool:
    if recurrence is Recurrence.BOTH:
        return True
    if recurrence is Recurrence.WITHOUT_HEADS_AND_FFN:
        return not recurs and model.layer_numbers("feed_forward_length")[layer] == 0
    return not recurs and layer < model.n_layers - model.number("attention.shared_kv_layers", 0)


def _cell_values(model: ModelDescription, layer: int, *, windowed: bool) -> int:
    """Return the values that one token takes in a layer: keys, values, and keys of an indexer."""
    key, value = model.key_length, model.value_length
    if windowed:
        key = model.number("attention.key_length_swa", key)
        value = model.number("attention.value_length_swa", value)
    compressed = model.number("attention.key_length_mla", 0) > 0
    found = model.n_head_kv[layer] * (key + (0 if compressed else value))
    indexers = full_indexers(model)
    if indexers is not None and indexers[layer]:
        found += model.number("attention.indexer.key_length", 0) + (0 if compressed else value)
    return found


def _state_values(model: ModelDescription) -> int:
    """Return the values of one layer's state of a sequence (``llama_hparams::n_embd_r`` and ``n_embd_s``)."""
    heads = model.layer_numbers("attention.head_count")[0]
    kernel = model.number("ssm.conv_kernel", 0)
    if cached := model.number("shortconv.l_cache", 0):
        return model.n_embd * (cached - 1)
    if head := model.number("kda.head_dim", 0):
        return 3 * (kernel - 1 if kernel else 3) * heads * head + head * head * heads
    inner, state = model.number("ssm.inner_size", 0), model.number("ssm.state_size", 0)
    return max(0, kernel - 1) * (inner + 2 * model.number("ssm.group_count", 0) * state) + state * inner
