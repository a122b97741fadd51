"""The manifest of a model: its metadata and its tensors, each known by the hash of its bytes.

A manifest is all that a device needs to know about a model of which it has no file. It may come from another device,
so nothing in it is believed: whatever can be derived is derived, and the rest is checked like a file.
"""

from __future__ import annotations

import io
import re
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

import msgspec

from ainet.errors import CannotSplit, ModelError
from ainet.models.architectures.checks import validate
from ainet.models.architectures.rules import SHARED_TENSORS, Rule
from ainet.models.architectures.table import architecture_of
from ainet.models.description import MAX_LAYERS, ModelDescription, Tensor
from ainet.models.gguf import MAX_HEADER, MAX_KEY, MAX_KEYS, MAX_TENSOR_NAME, MAX_TENSORS, GGUFFile, HeaderReader
from ainet.models.gguf_values import I8, Kind, Value, tensor_nbytes
from ainet.models.tokenizer import TOKENIZER_PREFIX, Tokenizer, check_vocabulary, vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ainet.models.architectures.layers import Layer
    from ainet.models.architectures.rules import Architecture

#: LLAMA_MAX_EXPERTS of llama-hparams.h.
MAX_EXPERTS = 1024
#: Tensors and metadata of a manifest that came from elsewhere, without the vocabulary.
MAX_METADATA = 4 << 20
#: ``tokenizer.ggml.model`` of the architectures in the table: SentencePiece, byte-pair encoding, and their relatives.
VERIFIED_TOKENIZERS = ("llama", "gpt2", "gemma4", "plamo2")
SPLIT_PREFIX = "split."
_HASH = re.compile(r"[0-9a-f]{64}")


class Manifest(ModelDescription, frozen=True, dict=True):
    """A description that was checked, and how its model may be split; see `ModelDescription` for the fields."""

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
        if self.number("nextn_predict_layers", 0) >= self.n_blocks:
            _wrong("It has more prediction layers than layers")
        experts, used = self.number("expert_count", 0), self.layer_numbers("expert_used_count", 0)
        if experts > MAX_EXPERTS or max(used) > experts or (experts and max(used) == 0):
            _wrong(f"{max(used)} of {experts} experts cannot be used")
        groups, used_groups = self.number("expert_group_count", 0), self.number("expert_group_used_count", 0)
        if (groups >= max(experts, 1)) or (groups > 1 and (experts % groups or not 0 < used_groups < groups)):
            _wrong(f"{experts} experts cannot form {groups} groups of which {used_groups} are used")
        if any((tensor.layer or 0) >= self.n_blocks for tensor in self.tensors):
            _wrong(f"It has tensors of layers beyond the {self.n_blocks} that its metadata names")
        if isinstance(self.split, Rule):
            validate(self.split, self)

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

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """What each layer is, and what it keeps of the sequences."""
        return self.split.layers(self)

    def token_bytes(self, first: int, last: int) -> int:
        """Return the bytes of one token's keys and values in the layers [first, last]."""
        return sum(layer.cell for layer in self.layers[first : last + 1])

    def state_bytes(self, first: int, last: int) -> int:
        """Return the bytes of one sequence's states in the layers [first, last]."""
        return sum(layer.state for layer in self.layers[first : last + 1])

    @cached_property
    def split(self) -> Architecture:
        """The rules for splitting this architecture."""
        return architecture_of(self.architecture)

    @property
    def is_verified(self) -> bool:
        """Whether the architecture is in the table of those that were verified."""
        return isinstance(self.split, Rule)

    @cached_property
    def cuts(self) -> list[int]:
        """Layers at which a stage may begin."""
        return self.split.cuts(self)

    @cached_property
    def most_stages(self) -> int:
        """Stages that there may be at most: fewer than there are cuts, where each needs several layers."""
        bounds = [0, *self.cuts, self.n_layers]
        most = {0: 0}
        for end in bounds[1:]:
            reached = [
                most[begin] + 1
                for begin in bounds
                if begin < end and begin in most and not self.split.refused_range(self, begin, end - 1)
            ]
            if reached:
                most[end] = max(reached)
        return max(1, most.get(self.n_layers, 1))

    @property
    def cuts_in_words(self) -> str:
        """``any``, ``multiples of N`` or ``no: REASON``."""
        return self.split.cuts_in_words(self)

    def check_range(self, first: int, last: int) -> None:
        """Raise `CannotSplit` unless the layers [first, last] may be a stage."""
        if not 0 <= first <= last < self.n_layers:
            raise CannotSplit(
                f"{self.name} has the layers 0 to {self.n_layers - 1}; {first} to {last} is not a range of them."
            )
        if last - first + 1 == self.n_layers:
            return
        architecture = self.split
        reason = architecture.refusal(self)
        if reason:
            raise CannotSplit(f"{self.name} cannot be split: {reason}. Run it whole, on a device with enough memory.")
        cuts = {0, *architecture.cuts(self), self.n_layers}
        for cut in (first, last + 1):
            if cut not in cuts:
                words = architecture.cuts_in_words(self)
                raise CannotSplit(f"{self.name} cannot be cut before layer {cut}; its architecture allows {words}.")
        reason = architecture.refused_range(self, first, last)
        if reason:
            raise CannotSplit(f"{self.name} cannot run its layers {first} to {last} as one stage: {reason}.")

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
        shared = self.split.shared_tensors(self, first, last)
        found = []
        for tensor in self.tensors:
            if tensor.layer is not None:
                wanted = first <= tensor.layer <= last
            elif tensor.name in shared:
                wanted = True
            elif tensor.name in SHARED_TENSORS:
                wanted = False  # another stage's
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
