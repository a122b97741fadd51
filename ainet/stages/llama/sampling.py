"""Sampling: how the next token is drawn from the logits, through llama.cpp's own samplers."""

from __future__ import annotations

import ctypes
import hashlib
import math
from typing import TYPE_CHECKING, Any

from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.errors import UsageError
from ainet.stages.llama.json_mask import JsonMask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ainet.stages.llama.llama import Llama
    from ainet.stages.llama.vocabulary import Vocabulary
    from ainet.stages.protocol.sampling_params import SamplingParams

LAST_TOKENS = 64  # tokens that the repeat penalty looks at: llama.cpp's default


def draw_seed(seed: int, position: int) -> int:
    """Return the 32-bit seed of the draw at `position`: neighbours share nothing, and a replay draws the same."""
    raw = seed.to_bytes(8, "little") + position.to_bytes(8, "little")
    # 0xFFFFFFFF asks llama.cpp for a random seed; the top bit is left out so that it cannot occur.
    return int.from_bytes(hashlib.blake2b(raw, digest_size=4).digest(), "little") & 0x7FFFFFFF


class Sampler:
    """llama.cpp's sampler chain for one generation. Free it with `close`.

    Parameters
    ----------
    params
        Parameters for drawing tokens.
    llama, vocabulary
        The model whose logits are read.

    Raises
    ------
    UsageError
        For values that make no sense, and a grammar or schema that llama.cpp refuses or cannot be trusted with.
    """

    def __init__(self, params: SamplingParams, llama: Llama, vocabulary: Vocabulary) -> None:
        params.check()
        self._params = params
        self._llama = llama
        self._vocabulary = vocabulary
        self._greedy = params.temperature == 0
        self._mask = JsonMask(params.json_schema, vocabulary) if params.json_schema else None
        # The chain is then the greedy sampler alone, which takes the first of the largest logits.
        is_free = not params.grammar and self._mask is None
        self._largest = self._greedy and is_free and params.repeat_penalty == 1.0
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        try:
            self._fill(params, vocabulary)
        except BaseException:
            self.close()
            raise
        self._steps = C.llama_sampler_chain_n(self._chain)

    def sample(self, position: int, row: int = -1) -> int:
        """Draw the token at `position` from the logits of a row of the last batch (-1: the last), and accept it.

        Raises
        ------
        UsageError
            If the grammar leaves no token to choose from.
        """
        if self._largest:
            return int(self._llama.logits(row).argmax())
        if not self._greedy:
            if C.llama_sampler_chain_n(self._chain) > self._steps:
                C.llama_sampler_free(C.llama_sampler_chain_remove(self._chain, self._steps))
            self._add(C.llama_sampler_init_dist(draw_seed(self._params.seed, position)))
        candidates = self._vocabulary.candidates(self._llama.logits(row))
        if self._mask is not None:
            self._mask.apply(candidates)
        pointer = candidates.ctypes.data_as(ctypes.POINTER(C.llama_token_data))
        drawn = C.llama_token_data_array(data=pointer, size=len(candidates), selected=-1, sorted=False)
        C.llama_sampler_apply(self._chain, ctypes.byref(drawn))
        if not 0 <= drawn.selected < drawn.size or drawn.data[drawn.selected].logit == -math.inf:
            # llama_sampler_sample would end the process here.
            raise UsageError(
                "The grammar allows no token of this model to follow. Change the grammar or the JSON schema."
            )
        token = int(drawn.data[drawn.selected].id)
        self.accept([token])
        return token

    def accept(self, tokens: Iterable[int]) -> None:
        """Tell penalties and grammar of tokens that were drawn elsewhere."""
        tokens = list(tokens)
        for token in tokens:
            C.llama_sampler_accept(self._chain, token)
        if self._mask is not None:
            self._mask.accept(tokens)

    def close(self) -> None:
        if self._chain:
            C.llama_sampler_free(self._chain)
            self._chain = None

    def _fill(self, params: SamplingParams, vocabulary: Vocabulary) -> None:
        if params.grammar:
            sampler = C.llama_sampler_init_grammar(vocabulary.pointer, params.grammar.encode(), b"root")
            if not sampler:
                raise UsageError(
                    "llama.cpp does not take the grammar: a `<token>` in it is none of this model's, or what may be "
                    "empty is repeated."
                )
            self._add(sampler)
        if params.repeat_penalty != 1.0:
            self._add(C.llama_sampler_init_penalties(vocabulary.n_tokens, LAST_TOKENS, params.repeat_penalty, 0.0, 0.0))
        if params.temperature == 0:
            self._add(C.llama_sampler_init_greedy())
            return
        if params.top_k > 0:
            self._add(C.llama_sampler_init_top_k(params.top_k))
        if params.top_p < 1:
            self._add(C.llama_sampler_init_top_p(params.top_p, 1))
        if params.min_p > 0:
            self._add(C.llama_sampler_init_min_p(params.min_p, 1))
        self._add(C.llama_sampler_init_temp(params.temperature))

    def _add(self, sampler: Any) -> None:
        C.llama_sampler_chain_add(self._chain, sampler)
