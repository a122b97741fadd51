"""Every architecture that may be split, on random weights: the difference is 0, wherever it is cut."""

from __future__ import annotations

from importlib.metadata import version
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.architectures import TINY
from support.broken_rule import BROKEN
from support.children import child
from support.shard_pipeline import Pipeline
from support.tiny_architectures import Tiny, write_tiny
from support.tiny_models import N_VOCAB

from ainet.models.architectures.table import IMPOSSIBLE, RULES, VERIFIED_WITH, architecture_of

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Splits of one model that are compared, of those into two, three and as many stages as there may be.
MOST_SPLITS = 40
#: Models of these architectures have no output matrix of their own.
ALWAYS_TIED = ("cohere2", "command-r")


def untied(tiny: Tiny) -> Tiny:
    """Return the model with an output matrix of its own, where llama.cpp does not insist on one anyway."""
    return tiny._replace(outer={**tiny.outer, "output.weight": (64, N_VOCAB)})


MODELS = {
    **TINY,
    **{
        f"{name}-untied": untied(tiny)
        for name, tiny in TINY.items()
        if not getattr(architecture_of(tiny.architecture), "output", ()) and tiny.architecture not in ALWAYS_TIED
    },
}


def split_in(model: Pipeline) -> Iterator[tuple[int, ...]]:
    """Yield the ways to cut a model: into two, three and the most stages."""
    manifest = model.manifest
    cuts = manifest.cuts
    found = []
    for count in (1, 2, *range(len(cuts), 2, -1)):
        allowed = [
            chosen
            for chosen in combinations(cuts, count)
            if not any(
                manifest.split.refused_range(manifest, first, end - 1)
                for first, end in pairwise((0, *chosen, manifest.n_layers))
            )
        ]
        found += allowed
        if count > 2 and allowed:
            break
    step = max(1, len(found) // MOST_SPLITS)
    yield from found[::step]


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline(tmp_path / "store", write_tiny(tmp_path / "tiny.gguf", MODELS[request.param]))
    yield pipeline
    pipeline.close()


def test_every_rule_has_a_model():
    elsewhere = {"llama", "qwen2", "qwen3", "qwen3moe", "phi3", "smollm3", "gemma3", "granite"}  # tests/unit
    assert {rule.name for rule in RULES} == {tiny.architecture for tiny in TINY.values()} | elsewhere


def test_the_rules_are_those_of_the_llama_cpp_that_is_installed():
    """With another one, read its ``src/models`` again: names, defaults and conditions may have changed."""
    assert version("llama-cpp-python") == VERIFIED_WITH


@pytest.mark.parametrize("model", MODELS, indirect=True)
def test_every_allowed_split_gives_the_same_logits(model):
    whole = model.logits()
    assert np.isfinite(whole).all()
    assert whole.std() > 0.01
    chosen = list(split_in(model))
    assert chosen
    for cuts in chosen:
        difference = np.abs(model.logits(*cuts) - whole).max()
        assert difference == 0.0, f"cut at {cuts}: {difference}"


@pytest.mark.parametrize(("name", "window", "cut"), [("llama4", 8192, 4), ("smallthinker", 4096, 8)])
def test_a_prompt_beyond_a_window_that_llama_cpp_sets_itself(name, window, cut, tmp_path):
    path = write_tiny(tmp_path / "tiny.gguf", TINY[name]._replace(n_layers=2 * cut))
    sizes = {"n_ctx": window + 512, "chunk": 512, "steps": (*[512] * (window // 512), 100, 1, 1, 1)}
    pipeline = Pipeline(tmp_path / "store", path, **sizes)
    try:
        assert any(layer.window == window for layer in pipeline.manifest.layers)
        assert np.array_equal(pipeline.logits(cut), pipeline.logits())
    finally:
        pipeline.close()


@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_rule_is_noticed(name, tmp_path):
    path = write_tiny(tmp_path / "tiny.gguf", TINY[name])
    done = child("support.broken_rule", name, str(path), str(tmp_path / "store"))
    assert done.returncode < 0 or done.stdout in ("differs\n", "refused\n"), done.stdout + done.stderr[-2000:]


def test_the_documentation_names_every_architecture():
    text = (Path(__file__).parents[3] / "docs/architectures.md").read_text()
    may, _, may_not = text.partition("## Not possible")
    assert not [rule.name for rule in RULES if f"`{rule.name}`" not in may]
    assert not [name for name in IMPOSSIBLE if f"`{name}`" not in may_not]
