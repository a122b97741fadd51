"""What a model loses is measured as llama.cpp's own tool does: chunks that begin anew, rows of their second half."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.tiny_models import write_model

from ainet.errors import UsageError
from ainet.quantising.quality import CHUNK, Reader, compare, keep_agreement, keep_logits, kept_agreement
from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.segments import Segment


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny.gguf", "llama", n_layers=2)


def test_chunks_begin_anew_and_are_as_many_as_the_text_has(tiny):
    with Reader(tiny, threads=1) as reader:
        text = "ainet " * 400
        chunks = reader.chunks(text, 99)
        assert len(chunks) > 1
        assert all(len(chunk) == CHUNK and chunk[0] == 1 for chunk in chunks)  # the model's first token
        assert [len(part) for part in reader.chunks(text, 1)] == [CHUNK]
        together = np.concatenate([chunk[1:] for chunk in chunks])
        tokens = reader._vocabulary.tokenize(text, special=False)
        np.testing.assert_array_equal(together, tokens[: len(together)])
        (short,) = reader.chunks("ainet " * 20, 8)
        assert 64 < len(short) < CHUNK
        with pytest.raises(UsageError, match="The text has 2 tokens; it takes at least 64"):
            reader.chunks("ab", 8)


def test_rows_are_those_of_one_decode(tiny):
    with Reader(tiny, threads=1) as reader:
        (first, *_) = reader.chunks("what is read here " * 60, 2)
        for _ in range(2):  # the second time begins anew, too
            rows = [row.copy() for row in reader.read(first)]
    assert len(rows) == CHUNK // 2
    with Llama(tiny, hidden_out=False, n_ctx=CHUNK, n_ubatch=CHUNK, n_outputs=CHUNK) as llama:
        llama.decode(first, [Segment(0, 0, CHUNK, outputs=CHUNK)])
        for number, row in enumerate(rows):
            np.testing.assert_allclose(row, llama.logits(CHUNK // 2 + number), atol=1e-3)


logits = arrays(np.float32, (3, 17), elements=st.floats(-30, 30, width=32))


@given(logits, logits)
def test_divergence_is_what_it_is_by_definition(tmp_path_factory, known, found):
    path = tmp_path_factory.mktemp("logits") / "source-0.npy"
    keep_logits(path, iter(known))
    agreement = compare(path, iter(found))
    kept = (known - known.max(axis=1, keepdims=True)).astype(np.float16).astype(np.float64)
    p = np.exp(kept) / np.exp(kept).sum(axis=1, keepdims=True)
    q = np.exp(found.astype(np.float64)) / np.exp(found.astype(np.float64)).sum(axis=1, keepdims=True)
    expected = np.sum(np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - np.log(q)), 0), axis=1)
    np.testing.assert_allclose(agreement.divergence, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(agreement.same_top, kept.argmax(axis=1) == found.argmax(axis=1))


def test_half_precision_costs_next_to_nothing(tmp_path):
    random = np.random.default_rng(0)
    rows = random.normal(0, 3, (64, 5000)).astype(np.float32)
    keep_logits(tmp_path / "source-0.npy", iter(rows))
    agreement = compare(tmp_path / "source-0.npy", iter(rows))
    assert agreement.divergence.mean() < 1e-5
    assert agreement.same_top.all()


def test_what_was_measured_is_kept_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x-0.npz"
    assert kept_agreement(path) is None
    keep_logits(tmp_path / "source-0.npy", iter(np.eye(4, dtype=np.float32)))
    agreement = compare(tmp_path / "source-0.npy", iter(np.eye(4, dtype=np.float32)))
    keep_agreement(path, agreement)
    np.testing.assert_array_equal(kept_agreement(path).divergence, agreement.divergence)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:size])
        assert kept_agreement(path) is None
