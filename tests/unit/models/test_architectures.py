from __future__ import annotations

from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.shard_pipeline import Pipeline
from support.tiny_models import HEAD, N_VOCAB, WINDOW, write_model

from ainet.errors import CannotSplit
from ainet.models.architectures.rules import Architecture, Rule
from ainet.models.gguf import GGUFFile, open_model
from ainet.models.manifest import Manifest
from ainet.models.shards import ShardStore
from ainet.models.tensors import TensorStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


ROPE_FACTORS = {"rope_factors_long.weight": (HEAD // 2,), "rope_factors_short.weight": (HEAD // 2,)}
GEMMA = {
    "attention.sliding_window": WINDOW,
    "attention.key_length": HEAD,
    "attention.value_length": HEAD,
    "rope.freq_base": 1000000.0,
    "rope.scaling.type": "linear",
    "rope.scaling.factor": 8.0,
}
GRANITE = {"embedding_scale": 3.0, "residual_scale": 0.4, "attention.scale": 0.2, "logit_scale": 2.0}

MODELS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "llama": ("llama", 6, {}),
    "llama-untied": ("llama", 6, {"tied": False, "metadata": {"vocab_size": N_VOCAB, "rope.dimension_count": HEAD}}),
    "llama-rope-freqs": ("llama", 6, {"extra": {"rope_freqs.weight": (HEAD // 2,)}}),
    "llama-arrays": (
        "llama",
        6,
        {
            "metadata": {
                "attention.head_count": [4] * 6,
                "attention.head_count_kv": [2] * 6,
                "feed_forward_length": [96] * 6,
            }
        },
    ),
    "qwen2": ("qwen2", 6, {}),
    "qwen2-untied": ("qwen2", 6, {"tied": False, "extra": {"output.bias": (N_VOCAB,)}}),
    "qwen3": ("qwen3", 6, {"metadata": {"attention.key_length": HEAD, "attention.value_length": HEAD}}),
    "llama-experts": ("llama", 5, {"n_experts": 4, "metadata": {"expert_count": 4, "expert_used_count": 2}}),
    "qwen3moe": (
        "qwen3moe",
        5,
        {
            "n_experts": 4,
            "metadata": {"expert_count": 4, "expert_used_count": [2] * 5, "expert_feed_forward_length": 96},
        },
    ),
    "phi3": ("phi3", 6, {"tied": False}),
    "phi3-long": (
        "phi3",
        6,
        {"tied": False, "extra": ROPE_FACTORS, "metadata": {"rope.scaling.original_context_length": 128}},
    ),
    "phi3-short": (
        "phi3",
        6,
        {"tied": False, "extra": ROPE_FACTORS, "metadata": {"rope.scaling.original_context_length": 512}},
    ),
    "granite": ("granite", 6, {"metadata": GRANITE}),
    "smollm3": ("smollm3", 14, {}),
    "gemma3": ("gemma3", 13, {"metadata": GEMMA}),
    "gemma3-number": ("gemma3", 7, {"metadata": {**GEMMA, "attention.sliding_window_pattern": 3}}),
    "gemma3-array": (
        "gemma3",
        7,
        {"metadata": {**GEMMA, "attention.sliding_window_pattern": [True, False, True, True, False, True, False]}},
    ),
    "gemma3-global": ("gemma3", 6, {"metadata": {k: v for k, v in GEMMA.items() if "window" not in k}}),
}


@pytest.fixture
def pipeline(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pipeline]:
    architecture, n_layers, options = MODELS[request.param]
    path = write_model(tmp_path / "tiny.gguf", architecture, n_layers, **options)
    pipeline = Pipeline(tmp_path / "store", path)
    yield pipeline
    pipeline.close()


def draft(path: Path) -> Manifest:
    return Manifest.draft("tiny", open_model(path))


@pytest.mark.parametrize("pipeline", MODELS, indirect=True)
def test_every_allowed_split_gives_the_same_logits(pipeline: Pipeline) -> None:
    manifest = pipeline.manifest
    cuts = manifest.cuts
    step = 4 if manifest.architecture == "smollm3" else 1
    assert cuts == list(range(step, manifest.n_layers, step))
    whole = pipeline.logits()
    assert np.isfinite(whole).all()
    assert whole.std() > 0.01
    for chosen in [*combinations(cuts, 1), *combinations(cuts, 2)]:
        for first, end in pairwise((0, *chosen, manifest.n_layers)):
            manifest.check_range(first, end - 1)
        difference = np.abs(pipeline.logits(*chosen) - whole).max()
        assert difference == 0.0, f"cut at {chosen}: {difference}"


@pytest.mark.parametrize("pipeline", MODELS, indirect=True)
def test_what_is_kept_is_as_if_it_were_computed_again(pipeline: Pipeline) -> None:
    cut = pipeline.manifest.cuts[0]
    whole = pipeline.logits(cut)
    can_keep = pipeline.stage(0, cut - 1).can_keep
    slides = pipeline.manifest.name == "tiny" and "attention.sliding_window" in str(pipeline.manifest.metadata)
    assert can_keep is not slides
    if can_keep:
        assert np.array_equal(pipeline.logits(cut, kept=1), whole[1:])


@pytest.mark.parametrize(
    ("pipeline", "entry", "cut"),
    [
        ("gemma3", Rule(name="gemma3"), 6),  # without the factor on embeddings
        ("granite", Rule(name="granite"), 3),  # with embedding_scale applied twice
        ("smollm3", Rule(name="smollm3"), 3),  # cut where RoPE is skipped elsewhere
    ],
    indirect=["pipeline"],
)
def test_the_test_notices_what_each_entry_is_for(pipeline: Pipeline, entry: Architecture, cut: int) -> None:
    whole = pipeline.logits()
    vars(pipeline.manifest)["split"] = entry  # where the cached property keeps it
    assert np.abs(pipeline.logits(cut) - whole).max() > 0.01


def test_a_cut_between_the_allowed_ones_is_refused(tmp_path: Path) -> None:
    manifest = draft(write_model(tmp_path / "tiny.gguf", "smollm3", 8))
    assert manifest.cuts == [4]
    assert manifest.cuts_in_words == "multiples of 4"
    manifest.check_range(0, 3)
    manifest.check_range(4, 7)
    with pytest.raises(
        CannotSplit, match=r"tiny cannot be cut before layer 3; its architecture allows multiples of 4\."
    ):
        manifest.check_range(0, 2)


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (3, 2), (4, 6), (0, 99)])
def test_a_range_beyond_the_layers_is_refused(tmp_path: Path, first: int, last: int) -> None:
    manifest = draft(write_model(tmp_path / "tiny.gguf", "llama", 6))
    with pytest.raises(CannotSplit, match=f"has the layers 0 to 5; {first} to {last} is not a range of them"):
        manifest.check_range(first, last)


UNSPLITTABLE: dict[str, tuple[str, int, dict[str, Any], str]] = {
    "unknown architecture": ("baichuan", 4, {}, "splitting the architecture 'baichuan' was not verified"),
    "62 layers of gemma3": (
        "gemma3",
        62,
        {"metadata": GEMMA},
        "takes models of 62 layers for gemma3-27b, with another attention scale",
    ),
    "experts": (
        "qwen2",
        4,
        {"n_experts": 4, "metadata": {"expert_count": 4, "expert_used_count": 2}},
        "mixture-of-experts models of the architecture 'qwen2' were not verified",
    ),
    "one layer": ("llama", 1, {}, "it has a single layer"),
    "few layers of smollm3": ("smollm3", 4, {}, "its layers are too few to be cut at multiples of 4"),
    "unknown array": (
        "granite",
        4,
        {"metadata": {"logit_scale": 1.0, "deepstack_mapping": [0, 1, 2, 3]}},
        "an array that is not known to belong to layers: granite.deepstack_mapping",
    ),
    "encoder": ("llama", 4, {"metadata": {"attention.causal": False}}, "its attention is not causal"),
    "unknown tensor": ("qwen3", 4, {"extra": {"cls.output.weight": (64, 1)}}, "belongs to no layer: cls.output.weight"),
}


@pytest.mark.parametrize("case", UNSPLITTABLE)
def test_what_was_not_verified_runs_whole_only(tmp_path: Path, case: str) -> None:
    architecture, n_layers, options, reason = UNSPLITTABLE[case]
    path = write_model(tmp_path / "tiny.gguf", architecture, n_layers, **options)
    with TensorStore(tmp_path / "store") as store:
        manifest = store.register(path)
        assert manifest.cuts == []
        assert manifest.cuts_in_words.startswith("no: ")
        assert reason in manifest.cuts_in_words
        last = n_layers - 1
        manifest.check_range(0, last)
        assert ShardStore(store).assemble(manifest, 0, last).path == str(path)
        if last:
            with pytest.raises(CannotSplit) as refused:
                ShardStore(store).assemble(manifest, 0, last - 1)
            assert "tiny cannot be split: " in refused.value.message
            assert reason in refused.value.message
            assert not list(store.shards.iterdir())


def test_a_stage_of_62_gemma3_layers_is_refused(tmp_path: Path) -> None:
    manifest = draft(write_model(tmp_path / "tiny.gguf", "gemma3", 64, metadata=GEMMA))
    manifest.check_range(0, 31)
    manifest.check_range(32, 63)
    with pytest.raises(CannotSplit, match=r"cannot run its layers 0 to 61 as one stage: llama\.cpp would take"):
        manifest.check_range(0, 61)


def test_a_middle_shard_holds_its_layers_and_no_vocabulary(tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.gguf", "llama", 6, extra={"rope_freqs.weight": (HEAD // 2,)})
    with TensorStore(tmp_path / "store") as store:
        manifest = store.register(path)
        shard = ShardStore(store).assemble(manifest, 2, 3)
        file = GGUFFile.open(type(path)(shard.path))
    assert (shard.is_first, shard.is_last, shard.embedding) == (False, False, None)
    assert file.metadata["llama.block_count"].value == 2
    assert file.metadata["tokenizer.ggml.model"].value == "none"
    assert not [key for key in file.metadata if key.startswith("tokenizer.") and key != "tokenizer.ggml.model"]
    shapes = {info.name: info.shape for info in file.tensors}
    assert shapes["token_embd.weight"] == (64, 1)
    assert {"rope_freqs.weight", "output_norm.weight"} < set(shapes)
    assert {name.split(".")[1] for name in shapes if name.startswith("blk.")} == {"0", "1"}
    kept = {key: value for key, value in manifest.metadata.items() if key != "llama.block_count"}
    assert kept.items() <= file.metadata.items()
