"""The manifest of a model: its metadata and its tensors, each known by the hash of its bytes.

A manifest is all that a device needs to know about a model of which it has no file. It may come from another device,
so nothing in it is believed: whatever can be derived is derived, and the rest is checked like a file.
"""

from __future__ import annotations

import hashlib
import io
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from ainet.errors import ModelError
from ainet.models.architectures import SHARED_TENSORS, Architecture, architecture_of
from ainet.models.gguf import MAX_HEADER, MAX_KEY, MAX_KEYS, MAX_TENSOR_NAME, MAX_TENSORS, GGUFFile, HeaderReader
from ainet.models.gguf_values import I8, TENSOR_TYPES, Kind, Value, tensor_nbytes
from ainet.models.tokenizer import TOKENIZER_PREFIX, Tokenizer, check_vocabulary, vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping

#: LLAMA_MAX_LAYERS and LLAMA_MAX_EXPERTS of llama-hparams.h.
MAX_LAYERS = 512
MAX_EXPERTS = 1024
#: Tensors and metadata of a manifest that came from elsewhere, without the vocabulary.
MAX_METADATA = 4 << 20
#: ``tokenizer.ggml.model`` of the architectures in the table: SentencePiece and byte-pair encoding.
VERIFIED_TOKENIZERS = ("llama", "gpt2")
SPLIT_PREFIX = "split."
#: ``enum llama_ftype`` of llama.h.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0",
    41: "Q2_0",
}  # fmt: skip
_HASH = re.compile(r"[0-9a-f]{64}")
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


class Manifest(msgspec.Struct, frozen=True, dict=True):
    """What a model consists of.

    Attributes
    ----------
    name
        What this device calls it; not part of its identity.
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

    @classmethod
    def draft(cls, name: str, files: list[GGUFFile]) -> Manifest:
        """Return the checked manifest of a model's files, still without hashes.

        Raises
        ------
        ModelError
            If the file is no language model or one that llama.cpp would not survive.
        """
        first = files[0]
        metadata = {
            key: value for key, value in first.metadata.items() if not key.startswith((TOKENIZER_PREFIX, SPLIT_PREFIX))
        }
        tensors = tuple(
            Tensor(info.name, info.shape, info.type, info.nbytes, "") for file in files for info in file.tensors
        )
        manifest = cls(name, metadata, Tokenizer("", 0, "", 0), tensors)
        try:
            manifest._validate()
            manifest.check_vocabulary(vocabulary(first))
        except ModelError as exc:
            raise ModelError(f"{first.path.name} is not a usable model. {exc.message}") from exc
        return manifest

    def with_hashes(self, tokenizer: Tokenizer, hashes: Mapping[str, str]) -> Manifest:
        """Complete a draft: `hashes` by tensor name."""
        tensors = tuple(msgspec.structs.replace(tensor, hash=hashes[tensor.name]) for tensor in self.tensors)
        return Manifest(self.name, self.metadata, tokenizer, tensors)

    def encode(self) -> bytes:
        """Return the bytes from which `decode` makes the manifest again."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Return the manifest in `data`, which may come from anywhere.

        Raises
        ------
        ModelError
            If it is not a manifest, or that of a model that no file could hold.
        """
        try:
            manifest = msgspec.msgpack.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ModelError(f"The description of a model cannot be read: {exc}.") from exc
        return manifest.validate()

    def validate(self) -> Manifest:
        """Return the manifest itself, or raise `ModelError` unless a valid file could have it."""
        if not self.name or len(self.name) > 200 or not self.name.isprintable():
            _wrong("Its name is empty, too long or unprintable")
        if not 1 <= len(self.tensors) <= MAX_TENSORS or len(self.metadata) > MAX_KEYS:
            _wrong(f"It has {len(self.tensors):,} tensors and {len(self.metadata):,} keys")
        for key, value in self.metadata.items():
            _check_value(key, value)
        if sum(len(value.raw) for value in self.metadata.values()) > MAX_METADATA:
            _wrong("Its metadata is too large")
        blob = self.tokenizer
        hashes = [blob.hash, blob.content, *(tensor.hash for tensor in self.tensors)]
        if not all(_HASH.fullmatch(text) for text in hashes):
            _wrong("A hash in it is not one")
        if not (0 < blob.nbytes <= MAX_HEADER and 0 < blob.content_nbytes <= MAX_HEADER):
            _wrong("The size of its vocabulary is impossible")
        for tensor in self.tensors:
            if not 1 <= len(tensor.name.encode()) <= MAX_TENSOR_NAME or "\0" in tensor.name:
                _wrong(f"A tensor has the impossible name {tensor.name[:80]!r}")
            if tensor_nbytes(tensor.name, tensor.shape, tensor.type) != tensor.nbytes:
                _wrong(f"The tensor {tensor.name!r} does not have the size of its shape")
        if len({tensor.name for tensor in self.tensors}) != len(self.tensors):
            _wrong("Two tensors have the same name")
        self._validate()
        return self

    def _validate(self) -> None:
        if not self.tensors:
            _wrong("It has no tensors")
        if not self.architecture:
            _wrong("It names no architecture")
        kind = self.text("general.type")
        if self.architecture == "clip" or kind not in (None, "model"):
            _wrong(f"It is not a language model, but {kind or self.architecture}")
        for name, most in (("block_count", MAX_LAYERS), ("embedding_length", 1 << 20), ("context_length", 1 << 30)):
            if not 1 <= self.number(name, 0) <= most:
                _wrong(f"{self.architecture}.{name} is missing or impossible")
        experts, used = self.number("expert_count", 0), self.layer_numbers("expert_used_count", 0)
        if experts > MAX_EXPERTS or max(used) > experts or (experts and max(used) == 0):
            _wrong(f"{max(used)} of {experts} experts cannot be used")
        groups, used_groups = self.number("expert_group_count", 0), self.number("expert_group_used_count", 0)
        if (groups >= max(experts, 1)) or (groups > 1 and (experts % groups or not 0 < used_groups < groups)):
            _wrong(f"{experts} experts cannot form {groups} groups of which {used_groups} are used")
        if self.number("nextn_predict_layers", 0) > self.n_layers:
            _wrong("It has more prediction layers than layers")
        if any((tensor.layer or 0) >= self.n_layers for tensor in self.tensors):
            _wrong(f"It has tensors of layers beyond the {self.n_layers} that its metadata names")
        self.split.validate(self)

    def check_vocabulary(self, found: Mapping[str, Value]) -> None:
        """Raise `ModelError` unless `found` (``tokenizer.*``) is a vocabulary for this model."""
        check_vocabulary(found)
        if not self.is_verified:
            return
        kind, tokens = found["tokenizer.ggml.model"].value, len(found["tokenizer.ggml.tokens"])
        if kind not in VERIFIED_TOKENIZERS:
            _wrong(f"Models of the architecture {self.architecture!r} have no vocabulary of the kind {kind!r}")
        if tokens != self.n_vocab:
            _wrong(f"Its vocabulary has {tokens:,} tokens for {self.n_vocab:,} embeddings")

    # --- what is derived -------------------------------------------------------------------------

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
    def split(self) -> Architecture:
        """What is known about splitting this architecture."""
        return architecture_of(self.architecture)

    @property
    def is_verified(self) -> bool:
        """Whether the architecture is in the table of those that were verified."""
        return type(self.split) is not Architecture

    @cached_property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.number("block_count", 0)

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
        """What the file says about its licence."""
        return self.text("general.license")

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def cuts(self) -> list[int]:
        """Layers at which a stage may begin."""
        return self.split.cuts(self)

    @property
    def cuts_in_words(self) -> str:
        """``any``, ``multiples of N`` or ``no: REASON``."""
        return self.split.cuts_in_words(self)

    def tensor(self, name: str) -> Tensor | None:
        """Return the tensor of that name."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, Tensor]:
        return {tensor.name: tensor for tensor in self.tensors}

    def shard_tensors(self, first: int, last: int) -> list[Tensor]:
        """Return what a stage with the layers [first, last] needs.

        The first stage looks up token embeddings; the last one has the output matrix (the embedding table where the
        model shares them) and the vocabulary, as a last entry named ``tokenizer``.
        """
        found = self.shard_weights(first, last)
        return [*found, self.tokenizer_tensor] if last == self.n_layers - 1 else found

    def shard_weights(self, first: int, last: int) -> list[Tensor]:
        """Return `shard_tensors` without the vocabulary."""
        is_first, is_last = first == 0, last == self.n_layers - 1
        if is_first and is_last:
            return list(self.tensors)
        tied = self.tensor("output.weight") is None
        found = []
        for tensor in self.tensors:
            if tensor.layer is not None:
                wanted = first <= tensor.layer <= last
            elif tensor.name in SHARED_TENSORS:
                wanted = True
            elif tensor.name == "token_embd.weight":
                wanted = is_first or (is_last and tied)
            else:
                wanted = is_last
            if wanted:
                found.append(tensor)
        return found

    @property
    def tokenizer_tensor(self) -> Tensor:
        """The vocabulary's blob in the form in which tensors are fetched."""
        return Tensor("tokenizer", (self.tokenizer.nbytes,), I8, self.tokenizer.nbytes, self.tokenizer.hash)

    def kv_bytes_per_token(self, first: int, last: int, bytes_per_value: int = 2) -> int:
        """Return the KV cache's bytes of one token in the layers [first, last] (f16 by default)."""
        return sum(self.n_head_kv[first : last + 1]) * (self.key_length + self.value_length) * bytes_per_value

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
        return found if len(found) == self.n_layers else found[:1] * self.n_layers

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


def _check_value(key: str, value: Value) -> None:
    if not 1 <= len(key.encode()) <= MAX_KEY or "\0" in key or key.startswith(TOKENIZER_PREFIX):
        _wrong(f"It has the impossible key {key[:80]!r}")
    if not 0 <= value.type < len(Kind):
        _wrong(f"The value of {key!r} has the unknown type {value.type}")
    reader = HeaderReader(io.BytesIO(value.raw), len(value.raw))
    reader.payload(Kind(value.type), f"the value of {key!r}")
    if reader.position != len(value.raw):
        _wrong(f"The value of {key!r} has bytes too many")


def _wrong(what: str) -> NoReturn:
    raise ModelError(f"{what}.")
