"""Log probabilities of tokens, from the logits of the place before them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ainet.api.logprobs import Alternative, TokenLogprob

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ainet.stages.llama.vocabulary import Vocabulary

#: Logits whose largest one is looked at before they are: the best few tokens are found without sorting all.
BLOCK = 64


def token_logprob(token: int, logits: NDArray[np.float32] | None, n: int, vocabulary: Vocabulary) -> TokenLogprob:
    """Return how probable a token was.

    Parameters
    ----------
    token
        The token.
    logits
        Of the place before it, float32 of shape (n_vocab,); None where there is none.
    n
        How many alternatives are told.
    vocabulary
        The model's.
    """
    if logits is None:
        return TokenLogprob(token, vocabulary.piece(token, shown=True), None)
    top = logits.max()
    norm = float(top) + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))
    alternatives = [
        Alternative(best, vocabulary.piece(best, shown=True), float(logits[best]) - norm)
        for best in best_tokens(logits, n)
    ]
    return TokenLogprob(token, vocabulary.piece(token, shown=True), float(logits[token]) - norm, alternatives)


def best_tokens(logits: NDArray[np.float32], n: int) -> list[int]:
    """Return the `n` tokens with the largest logits, the best one first, of equal ones the lower number."""
    n = min(n, len(logits))
    if n == 0:
        return []
    whole = len(logits) // BLOCK * BLOCK
    tokens = np.arange(whole, len(logits))
    if whole:
        # The n best tokens lie in the n blocks whose largest logits are the largest, or are as good as one there.
        largest = logits[:whole].reshape(-1, BLOCK).max(axis=1)
        least = np.partition(largest, -n)[-n] if n < len(largest) else -np.inf
        blocks = np.flatnonzero(largest >= least)
        tokens = np.concatenate([(blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel(), tokens])
    order = np.lexsort((tokens, -logits[tokens]))[:n]
    return [int(token) for token in tokens[order]]
