"""The static model makes vectors of what texts are about."""

from __future__ import annotations

import numpy as np
import pytest

from ainet.errors import AinetError
from ainet.vectors import word_llama
from ainet.vectors.word_llama import WordLlama


@pytest.fixture(scope="module")
def model():
    return WordLlama()


def test_similar_texts_are_near_each_other(model):
    vectors = model.passages(["The cat sleeps on the sofa.", "Kittens nap on couches.", "Taxes are due in April."])
    assert vectors.shape == (3, model.dimensions)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    question = model.question("Where do kittens sleep?")
    similar = vectors @ question
    assert similar[2] < min(similar[:2])
    assert len(model.hash) == 64


def test_any_text_has_a_vector(model):
    vectors = model.passages(["", " ", "\0\ufffd", "x" * 100_000])
    assert np.isfinite(vectors).all()
    assert not vectors[0].any()
    assert model.passages([]).shape == (0, model.dimensions)


def test_a_missing_package_is_said_in_words(monkeypatch):
    monkeypatch.setattr(word_llama.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AinetError, match="wordllama is missing"):
        WordLlama()
