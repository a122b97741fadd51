"""Sampling: how the next token is drawn from the logits, through llama.cpp's own samplers."""

from __future__ import annotations

import ctypes
import hashlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.errors import UsageError
from ainet.stages.llama.json_mask import JsonMask

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ainet.stages.llama.llama import Llama
    from ainet.stages.llama.vocabulary import Vocabulary
    from ainet.stages.protocol.sampling_params import SamplingParams

#: The margin of a token that could not be drawn, and the largest one that counts.
WORST = 1.0
#: Among so many of the best candidates an end is looked for.
MANY = 200
LAST_TOKENS = 64  # tokens that the repeat penalty looks at: llama.cpp's default
ALL_TOKENS = 1 << 16  # tokens that the other penalties look at: more than most contexts have


def gumbels(seed: int, position: int, tokens: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return standard Gumbel numbers for tokens, float64 of shape (n,), which depend on nothing but the arguments.

    The largest of logit and Gumbel number is drawn as softmax would draw it, and hardly changes when logits hardly do.
    (Gumbel, "Statistical Theory of Extreme Values", 1954; Maddison et al., "A* Sampling", NeurIPS 2014. The bits are
    mixed as in splitmix64: Steele et al., "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.)
    """
    raw = seed.to_bytes(8, "little") + position.to_bytes(8, "little")
    key = np.uint64(int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little"))
    with np.errstate(over="ignore"):
        bits = key + (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # neither 0 nor 1
    return -np.log(-np.log(uniform))


class Candidates(NamedTuple):
    """The tokens that may follow, int32 of shape (n,), and how good each is, float64: the best one is drawn."""

    tokens: NDArray[np.int32]
    scores: NDArray[np.float64]


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
        is_plain = params.repeat_penalty == 1.0 and not params.shifts_logits
        self._largest = self._greedy and is_free and is_plain
        #: Owned by the chain.
        self._grammar: Any = None
        self._is_refused = False
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        try:
            self._fill(params, vocabulary)
        except BaseException:
            self.close()
            raise

    def sample(self, position: int, row: int = -1) -> int:
        """Draw the token at `position` from the logits of a row of the last batch (-1: the last), and accept it.

        Raises
        ------
        UsageError
            If the grammar leaves no token to choose from.
        """
        if self._largest:
            return int(self._llama.logits(row).argmax())
        found = self._candidates(position, row)
        token = int(found.tokens[found.scores.argmax()])
        self._take(token)
        return token

    def margin(self, position: int, token: int, row: int = -1) -> float:
        """Return by how much another token would be better than this one, from 0 to 1, and accept this one.

        It is 1 for a token that could not be drawn, and 0 for the one that would be. What follows one that the grammar
        refuses is not judged any more: each is 1.
        """
        if self._largest:
            logits = self._llama.logits(row)
            return float(min(WORST, logits.max() - logits[token]))
        if self._is_refused or not self._fits(token):
            self._is_refused = True
            return WORST
        try:
            found = self._candidates(position, row)
        except UsageError:
            return WORST
        finally:
            self._take(token)
        mine = found.scores[found.tokens == token]
        return float(min(WORST, found.scores.max() - mine[0])) if len(mine) else WORST

    def end_margin(self, position: int, row: int = -1) -> float:
        """Return `margin` of ending the answer."""
        if self._is_refused:
            return WORST
        if self._largest:
            logits = self._llama.logits(row)
            found = Candidates(np.arange(len(logits), dtype=np.int32), logits.astype(np.float64))
        else:
            found = self._candidates(position, row)
        best = found.scores.argsort()[::-1][:MANY]
        ends = [i for i in best if self._vocabulary.ends(int(found.tokens[i]))]
        return float(min(WORST, found.scores[best[0]] - found.scores[ends[0]])) if ends else WORST

    def _candidates(self, position: int, row: int) -> Candidates:
        """Return what may follow the logits of a row; raises `UsageError` if the grammar leaves nothing."""
        candidates = self._vocabulary.candidates(self._llama.logits(row))
        if self._mask is not None:
            self._mask.apply(candidates)
        pointer = candidates.ctypes.data_as(ctypes.POINTER(C.llama_token_data))
        drawn = C.llama_token_data_array(data=pointer, size=len(candidates), selected=-1, sorted=False)
        C.llama_sampler_apply(self._chain, ctypes.byref(drawn))
        # The samplers put those that are left in front, in the same memory.
        left = candidates[: drawn.size]
        left = left[left["logit"] > -math.inf]
        if not len(left):
            # llama_sampler_sample would end the process here.
            raise UsageError(
                "The grammar allows no token of this model to follow. Change the grammar or the JSON schema."
            )
        scores = left["logit"].astype(np.float64)
        if self._greedy:
            best = scores.max()
            if 0 <= drawn.selected < drawn.size:  # of several that are equal, llama.cpp's choice
                scores[left["id"] == drawn.data[drawn.selected].id] = math.nextafter(best, math.inf)
        else:
            scores += gumbels(self._params.seed, position, left["id"])
        return Candidates(left["id"].copy(), scores)

    def accept(self, tokens: Iterable[int]) -> None:
        """Tell penalties and grammar of tokens that were drawn elsewhere; raises `UsageError` for what does not fit."""
        for token in tokens:
            if not self._fits(token):
                raise UsageError("An answer cannot go on: what was said before does not follow the grammar.")
            self._take(token)

    def _fits(self, token: int) -> bool:
        """Whether the grammar lets a token follow: for one that it does not, llama.cpp would end the process."""
        if self._grammar is None:
            return True
        one = C.llama_token_data(id=token, logit=0.0, p=0.0)
        drawn = C.llama_token_data_array(data=ctypes.pointer(one), size=1, selected=-1, sorted=False)
        C.llama_sampler_apply(self._grammar, ctypes.byref(drawn))
        return bool(one.logit > -math.inf)

    def _take(self, token: int) -> None:
        C.llama_sampler_accept(self._chain, token)
        if self._mask is not None:
            self._mask.accept([token])

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
            self._grammar = sampler
            self._add(sampler)
        if params.logit_bias:
            self._add(_biases(params.logit_bias, vocabulary))
        if params.frequency_penalty or params.presence_penalty:
            given = params.frequency_penalty, params.presence_penalty
            self._add(C.llama_sampler_init_penalties(vocabulary.n_tokens, ALL_TOKENS, 1.0, *given))
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


def _biases(biases: Sequence[tuple[int, float]], vocabulary: Vocabulary) -> Any:
    """Return llama.cpp's sampler that adds to the logits of tokens; raises `UsageError` for one that is none."""
    wrong = [token for token, _ in biases if not 0 <= token < vocabulary.n_tokens]
    if wrong:
        raise UsageError(f"logit_bias names {wrong[0]}; the model's tokens are 0 to {vocabulary.n_tokens - 1}.")
    given = (C.llama_logit_bias * len(biases))(*biases)
    return C.llama_sampler_init_logit_bias(vocabulary.n_tokens, len(biases), given)
