"""WordLlama's static model: the average of a vector for each token. It reads no context: it is quick, and only fair.

Its package is not imported: that configures logging, and does not find its own tokenizer without a download. The two
files that it ships are all there is to it.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load
from tokenizers import Tokenizer

from ainet.errors import AinetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.vectors.model import Vectors

NAME = "wordllama l2_supercat_256"
_WEIGHTS, _TOKENIZER = "weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json"
#: Characters of a text that are looked at.
MOST_CHARACTERS = 8000


class WordLlama:
    """The static model. Raises `AinetError` where its package is missing or damaged."""

    name = NAME

    def __init__(self) -> None:
        spec = importlib.util.find_spec("wordllama")
        if spec is None or not spec.submodule_search_locations:
            raise AinetError("The package wordllama is missing: `pip install wordllama`.")
        folder = Path(spec.submodule_search_locations[0])
        try:
            weights = (folder / _WEIGHTS).read_bytes()
            self._tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))
            (self._table,) = load(weights).values()
        except Exception as exc:  # tokenizers and safetensors raise errors of their own
            raise AinetError(f"The package wordllama is damaged ({exc}): `pip install --force wordllama`.") from exc
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.hash = hashlib.sha256(weights).hexdigest()
        self.dimensions: int = self._table.shape[1]
        self.tokens = 0

    def passages(self, texts: Sequence[str]) -> Vectors:
        vectors, tokens = self._embed(texts)
        self.tokens += tokens
        return vectors

    def question(self, text: str) -> Vectors:
        vectors, _ = self._embed([text])
        return np.asarray(vectors[0])

    def _embed(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """Return vectors, and the number of tokens that these are made of."""
        encoded = self._tokenizer.encode_batch([text[:MOST_CHARACTERS] for text in texts], add_special_tokens=False)
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for i, one in enumerate(encoded):
            if one.ids:
                vectors[i] = self._table[one.ids].mean(axis=0, dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        tokens = sum(len(one.ids) for one in encoded)
        return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32), tokens
