"""Embedding models in llama.cpp: any GGUF file of one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ainet.errors import AinetError
from ainet.models.gguf import GGUFFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ainet.vectors.model import Vectors

#: Tokens of a text that are looked at: small models were taught no more, and attention over more costs much.
MOST_TOKENS = 256
#: What families of models want before questions, and before passages.
PREFIXES: dict[str, tuple[str, str]] = {
    "e5": ("query: ", "passage: "),
    "nomic-embed": ("search_query: ", "search_document: "),
    "bge": ("Represent this sentence for searching relevant passages: ", ""),
    "mxbai": ("Represent this sentence for searching relevant passages: ", ""),
    "arctic-embed": ("Represent this sentence for searching relevant passages: ", ""),
}


class GGUFModel:
    """An embedding model. Its pooling is that which its file names, or else the mean.

    Raises
    ------
    AinetError
        The file is damaged, or is no embedding model.
    """

    def __init__(self, path: Path) -> None:
        described = GGUFFile.open(path)
        name = described.metadata.get("general.name")
        self.name = str(name.value) if name is not None else path.stem
        with path.open("rb") as file:
            self.hash = hashlib.file_digest(file, "sha256").hexdigest()
        lowered = f"{self.name} {path.stem}".lower()
        self._question, self._passage = next((both for key, both in PREFIXES.items() if key in lowered), ("", ""))
        # Questions do not wait for passages: each has a context of its own. The weights are there once.
        self._for_passages, self._for_questions = _load(path), _load(path)
        self.dimensions: int = self._for_passages.n_embd()
        self.tokens = 0

    def passages(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        embedded = [_embed(self._for_passages, self._passage + text) for text in texts]
        self.tokens += sum(tokens for _, tokens in embedded)
        return np.stack([vector for vector, _ in embedded])

    def question(self, text: str) -> Vectors:
        return _embed(self._for_questions, self._question + text)[0]


def _load(path: Path) -> Any:
    import llama_cpp

    try:
        return llama_cpp.Llama(
            str(path),
            embedding=True,
            n_ctx=MOST_TOKENS,
            n_batch=MOST_TOKENS,
            n_ubatch=MOST_TOKENS,
            n_threads=1,
            n_threads_batch=1,
            flash_attn=True,
            verbose=False,
        )
    except (ValueError, RuntimeError, AssertionError) as exc:
        raise AinetError(f"{path} cannot be used for vectors ({exc}).") from exc


def _embed(llama: Any, text: str) -> tuple[Vectors, int]:
    """Return the vector of a text, and the number of its tokens."""
    # A token has few characters: what is cut off here would be cut off anyway.
    vector, tokens = llama.embed(text[: 16 * MOST_TOKENS], normalize=False, truncate=True, return_count=True)
    found = np.asarray(vector, np.float32)
    if found.ndim > 1:  # a model without pooling: one vector for each token
        found = found.mean(axis=0)
    length = float(np.linalg.norm(found))
    return np.asarray(found / length if length else found, np.float32), tokens
