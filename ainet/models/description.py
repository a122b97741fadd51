"""A model without its weights: its metadata, its tensors, and what follows from them."""

from __future__ import annotations

import hashlib
import math
import re
from functools import cached_property
from typing import Any

import msgspec

from ainet.errors import ModelError
from ainet.models.gguf_values import TENSOR_TYPES, Kind, Value
from ainet.models.tokenizer import Tokenizer

#: LLAMA_MAX_LAYERS of llama-hparams.h.
MAX_LAYERS = 512
#: ``enum llama_ftype`` of llama.h.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0",
    41: "Q2_0",
}  # fmt: skip
_LAYER = re.compile(r"blk\.(0|[1-9][0-9]{0,3})\.[^.].*")


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """One tensor, wherever it lies.

    Attributes
    ----------
    shape
        In ggml's order: the contiguous dimension first.
    type
        ggml's number of the type.
    hash
        SHA-256 of its bytes, in hexadecimal.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    nbytes: int
    hash: str

    @property
    def layer(self) -> int | None:
        """The layer that it belongs to."""
        found = _LAYER.fullmatch(self.name)
        return int(found[1]) if found else None


class ModelDescription(msgspec.Struct, frozen=True, dict=True):
    """The parts of a model.

    Attributes
    ----------
    name
        The name on this device; not part of its identity.
    metadata
        Everything but ``tokenizer.*``, exactly as in the file.
    tokenizer
        The vocabulary.
    tensors
        In file order.
    """

    name: str
    metadata: dict[str, Value]
    tokenizer: Tokenizer
    tensors: tuple[Tensor, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything but the name: the identity of the model."""
        tensors = sorted((t.name, list(t.shape), t.type, t.nbytes, t.hash) for t in self.tensors)
        metadata = [(key, int(value.type), value.raw) for key, value in sorted(self.metadata.items())]
        return hashlib.sha256(msgspec.msgpack.encode([1, metadata, self.tokenizer.content, tensors])).hexdigest()

    @cached_property
    def architecture(self) -> str:
        """``general.architecture``."""
        return self.text("general.architecture") or ""

    @cached_property
    def n_blocks(self) -> int:
        """Layers in the file: also those that only predict further tokens, which nobody runs."""
        return self.number("block_count", 0)

    @cached_property
    def n_layers(self) -> int:
        """Layers that a token passes."""
        return self.n_blocks - self.number("nextn_predict_layers", 0)

    @cached_property
    def n_embd(self) -> int:
        """Values of one hidden state."""
        return self.number("embedding_length", 0)

    @cached_property
    def n_ctx_train(self) -> int:
        """Tokens of the context that the model was trained on."""
        return self.number("context_length", 0)

    @cached_property
    def n_vocab(self) -> int:
        """Tokens of the vocabulary (rows of the embedding table), 0 if there is no table."""
        table = self.tensor("token_embd.weight")
        return table.shape[1] if table is not None and len(table.shape) > 1 else 0

    @cached_property
    def n_head_kv(self) -> list[int]:
        """Key-value heads of each layer."""
        heads = self.layer_numbers("attention.head_count", 0)
        found = self.metadata.get(f"{self.architecture}.attention.head_count_kv")
        return heads if found is None else self.layer_numbers("attention.head_count_kv")

    @cached_property
    def key_length(self) -> int:
        """Values of one key of one head."""
        return self.number("attention.key_length", self._head_length)

    @cached_property
    def value_length(self) -> int:
        """Values of one value of one head."""
        return self.number("attention.value_length", self._head_length)

    @property
    def _head_length(self) -> int:
        return self.n_embd // max(1, self.layer_numbers("attention.head_count", 0)[0])

    @cached_property
    def quantisation(self) -> str:
        """Such as ``Q4_K_M``: what the file says, otherwise the type with the most bytes."""
        value = self.metadata.get("general.file_type")
        if value is not None and value.type == Kind.UINT32 and value.value in FILE_TYPES:
            return FILE_TYPES[value.value]
        weights: dict[int, int] = {}
        for tensor in self.tensors:
            weights[tensor.type] = weights.get(tensor.type, 0) + tensor.nbytes
        return TENSOR_TYPES[max(weights, key=lambda kind: weights[kind])].name

    @cached_property
    def licence(self) -> str | None:
        """The licence, as the file states it."""
        return self.text("general.license")

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that a token is multiplied with: of experts those that are used, of tables none."""
        experts, used = self.number("expert_count", 0), max(self.layer_numbers("expert_used_count", 0))
        is_tied = self.tensor("output.weight") is None
        found = 0
        for tensor in self.tensors:
            if tensor.name == "token_embd.weight" and not is_tied:
                continue
            n = math.prod(tensor.shape)
            found += n * used // experts if experts and "_exps." in tensor.name else n
        return found

    def tensor(self, name: str) -> Tensor | None:
        """Return the tensor of that name."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, Tensor]:
        return {tensor.name: tensor for tensor in self.tensors}

    def text(self, key: str) -> str | None:
        """Return a text of the metadata, or None."""
        value = self.metadata.get(key)
        return str(value.value) if value is not None and value.type == Kind.STRING else None

    def number(self, name: str, default: int) -> int:
        """Return a whole number of the architecture's metadata; an array gives its first item."""
        return self._numbers(name, default)[0]

    def layer_numbers(self, name: str, default: int = 0) -> list[int]:
        """Return a number for each layer, from an array or one number for all."""
        found = self._numbers(name, default)
        return found[: self.n_layers] if len(found) >= self.n_layers else found[:1] * self.n_layers

    def _numbers(self, name: str, default: int) -> list[int]:
        key = f"{self.architecture}.{name}"
        value = self.metadata.get(key)
        if value is None:
            return [default]
        kind = value.item_type or value.type
        if kind not in (Kind.UINT32, Kind.INT32) or not 1 <= len(value) <= MAX_LAYERS:
            raise ModelError(f"{key} is not a whole number.")
        found: Any = value.value
        numbers = found if isinstance(found, list) else [found]
        if min(numbers) < 0:
            raise ModelError(f"{key} is negative.")
        return numbers
