"""What makes vectors of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    #: One vector a row, of length 1.
    Vectors = npt.NDArray[np.float32]


class EmbeddingModel(Protocol):
    """Makes vectors of texts; those of similar texts are near each other.

    Attributes
    ----------
    hash
        SHA-256 of its weights, in hexadecimal: vectors of another one cannot be compared with its own.
    name
        What people call it.
    dimensions
        Numbers of a vector.
    tokens
        Tokens of all passages so far.
    """

    hash: str
    name: str
    dimensions: int
    tokens: int

    def passages(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of passages, of shape (texts, dimensions)."""

    def question(self, text: str) -> Vectors:
        """Return the vector of a question, of shape (dimensions,)."""
