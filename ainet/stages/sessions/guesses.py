"""The guesses of a small model, for a larger one that then brings several tokens with one lap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ainet.errors import UsageError
from ainet.stages.protocol.segments import Segment

if TYPE_CHECKING:
    from ainet.stages.llama.llama import Llama
    from ainet.stages.llama.vocabulary import Vocabulary


class Guesses:
    """Continues a text greedily, and remembers what it has read of it.

    Parameters
    ----------
    llama, vocabulary
        A whole model, which nobody else uses meanwhile.
    """

    def __init__(self, llama: Llama, vocabulary: Vocabulary) -> None:
        self._llama, self._vocabulary = llama, vocabulary
        self._text: list[int] = []
        self._read: list[int] = []  # what is in the KV cache

    def guess(self, begin: int, tokens: list[int], most: int) -> list[int]:
        """Return the most likely tokens to follow a text, none where it ends or fills the context window.

        Parameters
        ----------
        begin, tokens
            From where on the text differs from the last one, and what it says there.
        most
            The most there may be.

        Raises
        ------
        UsageError
            If there is no such text.
        """
        if not 0 <= begin <= len(self._text) or not begin + len(tokens) or not all(map(self._is_token, tokens)):
            raise UsageError("The model cannot guess what follows: the text before is not known.")
        if begin + len(tokens) > self._llama.n_ctx:
            raise UsageError(
                f"The model cannot guess what follows {begin + len(tokens)} tokens: it takes {self._llama.n_ctx}."
            )
        self._text[begin:] = tokens
        most = min(most, self._llama.n_ctx - len(self._text))
        if most <= 0:
            return []
        same = 0
        for one, other in zip(self._text[:-1], self._read, strict=False):
            if one != other:
                break
            same += 1
        if same < len(self._read):
            self._llama.keep(0, same)
        self._read[same:] = []
        chunk = self._llama.n_ubatch
        for position in range(same, len(self._text), chunk):
            self._decode(self._text[position : position + chunk])
        found: list[int] = []
        while not self._vocabulary.ends(token := int(self._llama.logits().argmax())):
            found.append(token)
            if len(found) == most:
                break
            self._decode([token])
        return found

    def forget(self) -> None:
        """Give the KV cache to somebody else."""
        if self._read:
            self._llama.clear()
            self._text, self._read = [], []

    def _is_token(self, token: int) -> bool:
        return 0 <= token < self._vocabulary.n_tokens

    def _decode(self, tokens: list[int]) -> None:
        rows = np.array(tokens, np.int32)
        self._llama.decode(rows, [Segment(0, len(self._read), len(rows), 1)])
        self._read += tokens
