"""Token embeddings, looked up outside llama.cpp: the first stage then needs no vocabulary and no logits buffer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ainet.errors import ModelError
from ainet.models.gguf_values import TENSOR_TYPES
from ainet.stages.llama.dequantize import dequantizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ainet.models.shards import Shard


#: Rows of this many tokens are remembered.
MAX_KNOWN = 512


class Embedding:
    """The embedding table of a model, of which rows are read from the file that holds it.

    Not mapped: the system would then keep 64 kB in memory for every token that occurs.
    """

    def __init__(self, shard: Shard) -> None:
        if shard.embedding is None:
            raise ModelError(f"The stage with layers {shard.first_layer}–{shard.last_layer} needs the embedding table.")
        place = shard.embedding
        self._n_embd, self._n_vocab = place.shape
        self._scale = np.float32(shard.input_scale)
        self._offset = place.offset
        self._row_bytes = place.nbytes // self._n_vocab
        #: Rows of tokens that were drawn lately: the other stages wait while one is read.
        self._known: dict[int, NDArray[np.float32]] = {}
        self._file = Path(place.path).open("rb", buffering=0)  # noqa: SIM115 - `close` closes it
        self._unpack = dequantizer(TENSOR_TYPES[place.type].name)

    def look_up(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the hidden states that `tokens` begin with, float32 of shape (n, n_embd)."""
        numbers = tokens.tolist()
        if len(numbers) != 1:
            return self._read(numbers)
        row = self._known.get(numbers[0])
        if row is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            row = self._known[numbers[0]] = self._read(numbers)
        return row

    def _read(self, numbers: list[int]) -> NDArray[np.float32]:
        if min(numbers) < 0 or max(numbers) >= self._n_vocab:
            raise ModelError(f"A token lies outside the vocabulary of {self._n_vocab}.")
        size, file = self._row_bytes, self._file.fileno()
        raw = b"".join([os.pread(file, size, self._offset + token * size) for token in numbers])
        if len(raw) != size * len(numbers):
            raise ModelError("The file of the embedding table was cut short; load the model again.")
        rows = np.empty((len(numbers), self._n_embd), np.float32)
        self._unpack(raw, rows.ctypes.data, rows.size)
        return rows if self._scale == 1 else rows * self._scale

    def close(self) -> None:
        self._file.close()
