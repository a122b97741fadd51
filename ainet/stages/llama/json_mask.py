"""The tokens that a JSON schema allows next: llguidance's matcher over the model's own vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ainet.errors import UsageError
from ainet.stages.protocol.json_schema import schema_grammar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ainet.stages.llama.vocabulary import Vocabulary


class JsonMask:
    """What may follow in an answer that follows a schema.

    Parameters
    ----------
    schema
        The schema, as JSON.
    vocabulary
        Of the model that answers.

    Raises
    ------
    UsageError
        For a schema that cannot be promised.
    """

    def __init__(self, schema: str, vocabulary: Vocabulary) -> None:
        from llguidance import LLMatcher

        self._matcher = LLMatcher(vocabulary.for_schemas, schema_grammar(schema), log_level=0)
        self._check()

    def apply(self, candidates: NDArray[Any]) -> None:
        """Set the logits of candidates that may not follow to minus infinity; they are in the order of their ids."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(mask, bitorder="little", count=len(candidates))
        candidates["logit"][allowed == 0] = -np.inf

    def accept(self, tokens: Iterable[int]) -> None:
        """Note what was drawn, here or elsewhere."""
        if not self._matcher.is_stopped():  # the end of the answer follows, which is no part of it
            self._matcher.consume_tokens(list(tokens))

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = self._matcher.get_error().splitlines()[0]
            raise UsageError(f"The JSON schema cannot be followed further: {reason}. Make it simpler.")
