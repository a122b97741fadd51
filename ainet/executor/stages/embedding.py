"""Token embeddings, looked up outside llama.cpp: the first stage then needs no vocabulary and no logits buffer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from ainet.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ainet.executor.models.shards import Shard


class Embedding:
    """The embedding table of a model, of which rows are read from the file that holds it.

    Not mapped: the system would then keep 64 kB in memory for every token that occurs.
    """

    def __init__(self, shard: Shard) -> None:
        if shard.embedding is None:
            msg = f"The stage with layers {shard.first_layer}–{shard.last_layer} needs the embedding table."
            raise ModelError(msg)
        place = shard.embedding
        self._n_embd, self._n_vocab = place.shape
        self._type = GGMLQuantizationType(place.type)
        self._scale = np.float32(shard.input_scale)
        self._offset = place.offset
        self._row_bytes = place.nbytes // self._n_vocab
        self._file = Path(place.path).open("rb", buffering=0)  # noqa: SIM115 - `close` closes it

    def look_up(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the hidden states that `tokens` begin with, float32 of shape (n, n_embd)."""
        if int(tokens.min()) < 0 or int(tokens.max()) >= self._n_vocab:
            msg = f"A token lies outside the vocabulary of {self._n_vocab}."
            raise ModelError(msg)
        size, file = self._row_bytes, self._file.fileno()
        raw = b"".join(os.pread(file, size, self._offset + int(token) * size) for token in tokens)
        if len(raw) != size * len(tokens):
            msg = "The file of the embedding table was cut short; load the model again."
            raise ModelError(msg)
        table = np.frombuffer(raw, np.uint8).reshape(len(tokens), size)
        rows = dequantize(table, self._type).astype(np.float32, copy=False)
        return np.ascontiguousarray(rows if self._scale == 1 else rows * self._scale)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
