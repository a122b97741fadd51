"""Sampling: how the next token is drawn from the logits, through llama.cpp's own samplers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ainet.executor.stages.llama import Llama
    from ainet.executor.stages.sampling_params import SamplingParams
    from ainet.executor.stages.vocabulary import Vocabulary

LAST_TOKENS = 64  # tokens that the repeat penalty looks at: llama.cpp's default


def grammar_of_schema(schema: str) -> str:
    """Return the GBNF grammar of a JSON schema."""
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        return str(json_schema_to_gbnf(schema))
    except (KeyError, ValueError, TypeError, AssertionError, AttributeError, RecursionError) as exc:
        msg = f"This JSON schema cannot be turned into a grammar: {exc}"
        raise UsageError(msg) from exc


def draw_seed(seed: int, position: int) -> int:
    """Return the 32-bit seed of the draw at `position`: neighbours share nothing, and a replay draws the same."""
    raw = seed.to_bytes(8, "little") + position.to_bytes(8, "little")
    # 0xFFFFFFFF asks llama.cpp for a random seed; the top bit is left out so that it cannot occur.
    return int.from_bytes(hashlib.blake2b(raw, digest_size=4).digest(), "little") & 0x7FFFFFFF


class Sampler:
    """llama.cpp's sampler chain for one generation. Free it with `close`."""

    def __init__(self, params: SamplingParams, llama: Llama, vocabulary: Vocabulary) -> None:
        params.check()
        self._params = params
        self._context = llama.context
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        self._greedy = params.temperature == 0
        text = grammar_of_schema(params.json_schema) if params.json_schema else params.grammar
        if text:
            grammar = C.llama_sampler_init_grammar(vocabulary.pointer, text.encode(), b"root")
            if not grammar:
                self.close()
                msg = "The grammar is not valid GBNF, or has no rule named root."
                raise UsageError(msg)
            self._add(grammar)
        if params.repeat_penalty != 1.0:
            self._add(C.llama_sampler_init_penalties(vocabulary.n_tokens, LAST_TOKENS, params.repeat_penalty, 0.0, 0.0))
        if self._greedy:
            self._add(C.llama_sampler_init_greedy())
        else:
            if params.top_k > 0:
                self._add(C.llama_sampler_init_top_k(params.top_k))
            if params.top_p < 1:
                self._add(C.llama_sampler_init_top_p(params.top_p, 1))
            if params.min_p > 0:
                self._add(C.llama_sampler_init_min_p(params.min_p, 1))
            self._add(C.llama_sampler_init_temp(params.temperature))
        self._steps = C.llama_sampler_chain_n(self._chain)

    def sample(self, position: int) -> int:
        """Draw the token at `position` from the logits of the last decoded row, and accept it."""
        if not self._greedy:
            if C.llama_sampler_chain_n(self._chain) > self._steps:
                C.llama_sampler_free(C.llama_sampler_chain_remove(self._chain, self._steps))
            self._add(C.llama_sampler_init_dist(draw_seed(self._params.seed, position)))
        return int(C.llama_sampler_sample(self._chain, self._context, -1))

    def accept(self, tokens: Iterable[int]) -> None:
        """Tell penalties and grammar of tokens that were drawn elsewhere."""
        for token in tokens:
            C.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Free the chain."""
        if self._chain:
            C.llama_sampler_free(self._chain)
            self._chain = None

    def _add(self, sampler: Any) -> None:
        C.llama_sampler_chain_add(self._chain, sampler)
