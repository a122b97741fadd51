"""A requester's wishes for the drawing of tokens."""

from __future__ import annotations

import msgspec

from ainet.errors import UsageError
from ainet.stages.protocol.grammar import MAX_GRAMMAR, check_grammar


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters by which tokens are drawn.

    Attributes
    ----------
    temperature
        0 takes the most probable token (greedy).
    top_k, top_p, min_p
        Limits of the candidates; 0, 1.0 and 0.0 switch them off.
    repeat_penalty
        1.0 switches it off.
    seed
        The draw at a position depends on the seed and the position only.
    grammar
        GBNF that the answer follows; empty for none.
    json_schema
        JSON schema, as JSON, that the answer follows; empty for none.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int = 0
    grammar: str = ""
    json_schema: str = ""

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        limits = (
            ("temperature", self.temperature, 0, 100),
            ("top_k", self.top_k, 0, 2**31 - 1),
            ("top_p", self.top_p, 0, 1),
            ("min_p", self.min_p, 0, 1),
            ("repeat_penalty", self.repeat_penalty, 0.01, 100),
            ("seed", self.seed, 0, 2**63 - 1),
        )
        for name, value, least, most in limits:
            if not least <= value <= most:
                raise UsageError(f"{name} is {value}; it must lie between {least} and {most}.")
        if self.grammar and self.json_schema:
            raise UsageError("Give a grammar or a JSON schema, not both.")
        size = len(self.json_schema.encode(errors="replace"))
        if size > MAX_GRAMMAR:
            raise UsageError(f"The JSON schema has {size} bytes; at most {MAX_GRAMMAR} are allowed.")
        check_grammar(self.grammar)
