"""Embeddings of every type of weights that llama.cpp knows, looked up as llama.cpp does."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import quants

from ainet.errors import ModelError
from ainet.models.gguf_values import TENSOR_TYPES
from ainet.stages.llama.dequantize import dequantizer

WEIGHTS = [kind for kind in TENSOR_TYPES.values() if kind.name not in ("I8", "I16", "I32", "I64", "F64")]
#: Where the scales of a block are, as (offset, numpy type); the others of its bytes may be anything.
SCALES = {
    **{key: [0] for key in ("Q4_0", "Q5_0", "Q8_0", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL")},
    **{key: [0] for key in ("IQ3_S", "IQ2_S", "IQ4_XS", "Q1_0", "Q2_0")},
    **{key: [0, 2] for key in ("Q4_1", "Q5_1", "Q4_K", "Q5_K")},
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q6_K": [208],
    "TQ1_0": [52],
    "TQ2_0": [64],
}


def block(kind, random):
    """Return the bytes of one block, whose scales are small numbers."""
    if kind.name in ("F32", "F16"):
        return random.normal(0, 1, 1).astype({"F32": np.float32, "F16": np.float16}[kind.name]).tobytes()
    if kind.name == "BF16":
        return random.normal(0, 1, 1).astype(np.float32).tobytes()[2:]
    raw = bytearray(random.integers(0, 256, kind.nbytes, np.uint8).tobytes())
    for offset in SCALES.get(kind.name, []):
        raw[offset : offset + 2] = np.float16(random.uniform(0.01, 0.1)).tobytes()
    if kind.name == "MXFP4":
        raw[0] = 125
    if kind.name == "NVFP4":
        raw[:4] = bytes([48, 52, 56, 50])
    if kind.name == "IQ1_M":  # the scale is spread over the highest bits of four numbers
        scale = int(np.float16(0.05).view(np.uint16))
        for i in range(4):
            raw[48 + 2 * i + 1] = (raw[48 + 2 * i + 1] & 0x0F) | (((scale >> (4 * i)) & 0xF) << 4)
    return bytes(raw)


def rows_of(kind, n, length):
    random = np.random.default_rng(len(kind.name) + kind.nbytes)
    return b"".join(block(kind, random) for _ in range(n * length // kind.block))


@pytest.mark.parametrize("kind", WEIGHTS, ids=[kind.name for kind in WEIGHTS])
def test_every_type_is_looked_up_as_the_gguf_package_does(kind):
    raw = rows_of(kind, 3, 512)
    found = np.empty((3, 512), np.float32)
    dequantizer(kind.name)(raw, found.ctypes.data, found.size)
    assert np.isfinite(found).all()
    assert found.std() > 0
    try:
        expected = quants.dequantize(np.frombuffer(raw, np.uint8).reshape(3, -1), gguf.GGMLQuantizationType[kind.name])
    except (KeyError, NotImplementedError):
        assert kind.name in ("Q1_0", "Q2_0")  # that package does not know them: see the next test
        return
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_two_types_of_few_bits_are_what_their_definition_says():
    """Q1_0: a scale and a sign for each of 128 values. Q2_0: a scale and two bits, less one, for each of 64 values."""
    for kind, shape, values in (
        ("Q1_0", (128, 18), lambda d, bits: np.where(np.unpackbits(bits, bitorder="little"), d, -d)),
        ("Q2_0", (64, 18), lambda d, bits: d * ((bits[:, None] >> np.array([0, 2, 4, 6])) & 3).ravel() - d),
    ):
        (tensor_type,) = (one for one in WEIGHTS if one.name == kind)
        raw = rows_of(tensor_type, 1, shape[0])
        found = np.empty(shape[0], np.float32)
        dequantizer(kind)(raw, found.ctypes.data, found.size)
        d = np.frombuffer(raw[:2], np.float16).astype(np.float32)[0]
        assert np.allclose(found, values(d, np.frombuffer(raw[2:], np.uint8))), kind


def test_a_type_that_ggml_cannot_look_up_is_refused():
    with pytest.raises(ModelError, match="Embeddings of the type I32 cannot be looked up"):
        dequantizer("I32")
