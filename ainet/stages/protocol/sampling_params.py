"""A requester's wishes for the drawing of tokens."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ainet.errors import UsageError
from ainet.stages.protocol.grammar import MAX_GRAMMAR, check_grammar

#: Tokens whose logits are changed.
MOST_BIASES = 1024
MOST_TOKEN = 2**31 - 1
BiasedToken = Annotated[int, msgspec.Meta(ge=0)]


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
    frequency_penalty, presence_penalty
        Taken from a token's logit for each time that it was said, and once if it was said at all; 0.0 switches them
        off.
    logit_bias
        Added to the logits of tokens: pairs of a token and what is added.
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
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Annotated[tuple[tuple[BiasedToken, float], ...], msgspec.Meta(max_length=MOST_BIASES)] = ()
    seed: int = 0
    grammar: str = ""
    json_schema: str = ""

    @property
    def shifts_logits(self) -> bool:
        """Whether tokens become likelier or less likely, other than by being repeated lately."""
        return bool(self.frequency_penalty or self.presence_penalty or self.logit_bias)

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        limits = (
            ("temperature", self.temperature, 0, 100),
            ("top_k", self.top_k, 0, 2**31 - 1),
            ("top_p", self.top_p, 0, 1),
            ("min_p", self.min_p, 0, 1),
            ("repeat_penalty", self.repeat_penalty, 0.01, 100),
            ("frequency_penalty", self.frequency_penalty, -2, 2),
            ("presence_penalty", self.presence_penalty, -2, 2),
            *(("logit_bias", bias, -100, 100) for _, bias in self.logit_bias),
            ("seed", self.seed, 0, 2**63 - 1),
        )
        for name, value, least, most in limits:
            if not least <= value <= most:
                raise UsageError(f"{name} is {value}; it must lie between {least} and {most}.")
        wrong = [token for token, _ in self.logit_bias if not 0 <= token <= MOST_TOKEN]
        if wrong:
            raise UsageError(f"logit_bias names {str(wrong[0])[:20]}, which is no token.")
        if len(self.logit_bias) > MOST_BIASES:
            raise UsageError(f"logit_bias names {len(self.logit_bias)} tokens; at most {MOST_BIASES} are allowed.")
        if self.grammar and self.json_schema:
            raise UsageError("Give a grammar or a JSON schema, not both.")
        size = len(self.json_schema.encode(errors="replace"))
        if size > MAX_GRAMMAR:
            raise UsageError(f"The JSON schema has {size} bytes; at most {MAX_GRAMMAR} are allowed.")
        check_grammar(self.grammar)
