"""The tokens that layers with states can take back: what is tried before it is drawn may be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ainet.models.manifest import Manifest

#: Most tokens that are taken back at once.
MOST = 7
#: A state for each of them may take this part of what the weights take.
SHARE = 1 / 8


def rollback_of(manifest: Manifest, *, sessions: int, exact: bool, speculate: bool) -> int:
    """Return the number of tokens for which a pipeline keeps earlier states; 0 where nothing is tried.

    In exact mode nothing is: llama.cpp computes a state for several tokens at once with another rounding.
    """
    state = sessions * sum(layer.state for layer in manifest.layers)
    if exact or not speculate or not state or not manifest.split.rolls_back:
        return 0
    return min(MOST, int(SHARE * sum(tensor.nbytes for tensor in manifest.tensors) / state))
