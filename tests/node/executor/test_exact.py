"""Exact answers: what a session's logits are does not depend on who shares its batches, for each quantisation named."""

from __future__ import annotations

import ctypes
import random

import llama_cpp
import numpy as np
import pytest
from support.local_nodes import ask, nodes
from support.smollm2 import N_CTX

from ainet.errors import UsageError
from ainet.placement.survey import EXACT
from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.segments import Segment
from ainet.stages.protocol.spec import EXACT_UBATCH

FILE_TYPES = {
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}
SLOTS = 6
PROMPT = 100


def test_every_quantisation_that_is_said_to_be_exact_is_tested():
    assert set(FILE_TYPES) == EXACT


def quantise(source, path, file_type):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 2
    params.allow_requantize = params.pure = True
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(params)) == 0
    return path


@pytest.fixture(scope="module", params=sorted(FILE_TYPES))
def quantised(request, smollm2_path, tmp_path_factory):
    """SmolLM2 in one of the quantisations."""
    return quantise(smollm2_path, tmp_path_factory.mktemp("quantised") / "model.gguf", FILE_TYPES[request.param])


def logits_of(llama, text, company):
    """Read a text as a prompt in chunks, its last tokens one by one, with rows of others; return its logits."""
    found, position = [], 0
    places = dict.fromkeys(range(1, SLOTS), 0)
    lengths = [EXACT_UBATCH, PROMPT - EXACT_UBATCH, *[1] * (len(text) - PROMPT)]
    for n in lengths:
        rows, segments = [text[position : position + n]], [Segment(0, position, n, 1)]
        room = EXACT_UBATCH - n
        for slot in company.sample(sorted(places), company.randrange(SLOTS)) if company else ():
            others = company.randint(1, 20) if company.random() < 0.5 else 1
            if others <= room:
                rows.append(np.array([company.randrange(1000, 9000) for _ in range(others)], np.int32))
                segments.append(Segment(slot, places[slot], others, 0))
                places[slot] += others
                room -= others
        if company:
            order = company.sample(range(len(rows)), len(rows))
            rows, segments = [rows[i] for i in order], [segments[i] for i in order]
        llama.decode(np.concatenate(rows), segments)
        found.append(llama.logits().copy())
        position += n
    return found


@pytest.mark.parametrize("threads", [1, 2])
def test_logits_are_the_same_to_the_last_bit_in_any_company(quantised, threads):
    text = np.array([random.Random(1).randrange(1000, 9000) for _ in range(PROMPT + 10)], np.int32)
    alone, mixed = (with_company(quantised, text, threads, company) for company in (None, random.Random(1)))
    assert all(np.array_equal(one, other) for one, other in zip(alone, mixed, strict=True))


def with_company(path, text, threads, company):
    options = {"n_ctx": N_CTX, "n_ubatch": EXACT_UBATCH, "n_slots": SLOTS, "threads": threads, "exact": True}
    with Llama(path, hidden_out=False, **options) as llama:
        return logits_of(llama, text, company)


async def test_another_quantisation_is_refused_in_words(tmp_path, smollm2_path):
    other = quantise(smollm2_path, tmp_path / "other.gguf", llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_1)
    async with nodes(tmp_path, desk={"exact": True}) as found:
        with pytest.raises(UsageError, match=r"not known to hold for Q5_1.* only for Q4_0, Q4_1, Q8_0"):
            await ask(found["desk"], model=str(other))
        assert (await ask(found["desk"])).text  # Q4_1
