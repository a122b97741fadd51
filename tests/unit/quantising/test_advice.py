"""Which format is recommended."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_models import write_model

from ainet.api.quantise import FormatEstimate
from ainet.errors import UsageError
from ainet.models.gguf import open_model
from ainet.models.gguf_values import TENSOR_TYPES
from ainet.models.manifest import Manifest
from ainet.placement.capacity import NodeCapacity
from ainet.quantising.advice import FEW_BITS, READING, bits, converted, kinds_of, mixed_speed, recommend
from ainet.quantising.formats import FORMATS, USUAL, find_format
from ainet.quantising.job import new_name

DEVICE = NodeCapacity(node="0" * 64, name="desk", memory=4_000_000_000, threads=2, speed=1e9)
GB = 1_000_000_000


def estimate(name, bits, seconds, *, fits=True, is_source=False):
    return FormatEstimate(
        format=name, size=round(bits * GB), bits=bits, memory=round(bits * GB), seconds=seconds, fits=fits,
        is_source=is_source,
    )  # fmt: skip


def test_the_most_bits_at_which_people_do_not_wait():
    all_of_them = [estimate("Q8_0", 8.5, 0.15), estimate("Q6_K", 6.6, 0.09), estimate("Q4_0", 4.5, 0.05)]
    advice = recommend("llama", DEVICE, all_of_them)
    assert advice.recommended == "Q6_K"
    assert advice.why == (
        "Q6_K keeps the most of those that write 10 tokens a second or more on desk, of whose memory 4 GB are free."
    )


def test_the_quickest_where_people_wait_with_all_of_them():
    all_of_them = [estimate("Q8_0", 8.5, 0.5), estimate("Q4_0", 4.5, 0.2), estimate("IQ4_NL", 4.6, 0.3)]
    assert recommend("llama", DEVICE, all_of_them).recommended == "Q4_0"


def test_few_bits_only_where_nothing_else_fits():
    few = [estimate("Q4_0", 4.5, 0.05, fits=False), estimate("Q3_K_M", 3.9, 0.05), estimate("Q2_K", 3.0, 0.01)]
    advice = recommend("llama", DEVICE, few)
    assert advice.recommended == "Q3_K_M"
    assert "compare it with its source" in advice.why


def test_no_format_fits():
    advice = recommend("llama", DEVICE, [estimate("Q8_0", 8.5, 0.1, fits=False), estimate("Q4_0", 5, 0.1, fits=False)])
    assert advice.recommended is None
    assert "Q4_0 takes 5 GB" in advice.why
    assert "4 GB are free" in advice.why
    assert "ainet join" in advice.why


def test_a_format_whose_speed_is_not_known_is_not_recommended():
    assert recommend("llama", DEVICE, [estimate("Q8_0", 8.5, None), estimate("Q4_0", 4.5, 0.1)]).recommended == "Q4_0"


@given(
    st.lists(
        st.builds(
            lambda name, bits, seconds, fits: estimate(name, bits, seconds, fits=fits),
            st.sampled_from(sorted(FORMATS)),
            st.floats(1.5, 17),
            st.one_of(st.none(), st.floats(0.001, 5)),
            st.booleans(),
        ),
        max_size=12,
        unique_by=lambda one: one.format,
    )
)
def test_what_is_recommended_fits_and_nothing_fair_is_passed_over(estimates):
    advice = recommend("llama", DEVICE, estimates)
    able = [one for one in estimates if one.fits and one.seconds is not None]
    chosen = next((one for one in able if one.format == advice.recommended), None)
    assert (chosen is None) == (not able)
    if chosen is not None and any(one.bits >= FEW_BITS for one in able):
        assert chosen.bits >= FEW_BITS
        quick = [one for one in able if one.seconds <= 1 / READING and one.bits >= FEW_BITS]
        assert not quick or chosen in quick


def test_formats_are_those_that_llama_cpp_knows():
    from llama_cpp import llama_cpp as C  # noqa: N812

    known = {name.removeprefix("LLAMA_FTYPE_MOSTLY_"): value for name, value in vars(C).items() if "_FTYPE_" in name}
    for form in FORMATS.values():
        assert {"F32": "LLAMA_FTYPE_ALL_F32", "MXFP4": "MXFP4_MOE"}.get(form.name, form.name) in known
        assert known.get(form.name, form.number) == form.number
    assert set(USUAL) <= FORMATS.keys()
    assert find_format("q4_k_m").name == "Q4_K_M"
    with pytest.raises(UsageError, match="There are, among others: Q4_K_S"):
        find_format("Q4_K_L")


def test_a_converted_manifest_has_the_sizes_and_speed_of_its_types(tmp_path):
    path = write_model(tmp_path / "tiny.gguf", "llama")
    manifest = Manifest.draft("tiny", open_model(path))
    assert kinds_of(manifest) == {"Q8_0"}
    assert 8.5 < bits(manifest) < 9
    types = {tensor.name: 2 for tensor in manifest.tensors if ".ffn_" in tensor.name and len(tensor.shape) > 1}
    mixed = converted(manifest, types)
    assert kinds_of(mixed) == {"Q8_0", "Q4_0"}
    assert 4.5 < bits(mixed) < 8.5
    for before, after in zip(manifest.tensors, mixed.tensors, strict=True):
        assert after.nbytes == (before.nbytes * 18 // 34 if before.name in types else before.nbytes)
    assert mixed_speed(mixed, {"Q8_0": 1.0}) is None
    assert mixed_speed(mixed, {"Q8_0": 2.0, "Q4_0": 2.0}) == pytest.approx(2.0)
    sizes = {
        name: sum(t.nbytes for t in mixed.tensors if TENSOR_TYPES[t.type].name == name) for name in ("Q8_0", "Q4_0")
    }
    expected = sum(sizes.values()) / (sizes["Q8_0"] / 3.0 + sizes["Q4_0"])
    assert math.isclose(mixed_speed(mixed, {"Q8_0": 3.0, "Q4_0": 1.0}), expected)


@pytest.mark.parametrize(
    ("name", "importance", "expected"),
    [
        ("smollm2", False, "smollm2-Q4_0"),
        ("SmolLM2-135M.Q8_0", False, "SmolLM2-135M-Q4_0"),
        ("smollm2:135m", True, "smollm2-135m-Q4_0-imatrix"),
        ("a/../b c-q8_0", False, "a-..-b-c-Q4_0"),
    ],
)
def test_names_of_what_is_made(tmp_path, name, importance, expected):
    manifest = Manifest.draft(name, open_model(write_model(tmp_path / "tiny.gguf", "llama")))
    assert new_name(manifest, "Q4_0", importance=importance) == expected
