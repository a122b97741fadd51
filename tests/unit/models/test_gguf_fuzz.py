from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.gguf_files import check, rewrite, shipped_model, start, within
from support.tiny_models import HEAD, write_model

from ainet.errors import ModelError
from ainet.models.gguf import GGUFFile
from ainet.models.gguf_values import Kind, Value
from ainet.models.manifest import Manifest
from ainet.models.tokenizer import pack_vocabulary, vocabulary

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = (0, 1, 7, 63, 64, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def mutated(chance: random.Random, data: bytes, head: int) -> bytes:
    """Return `data` with a few mistakes, most of them in the header."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        position = chance.randrange(head if chance.random() < 0.95 else len(changed)) % max(1, len(changed))
        match chance.randrange(7):
            case 0:
                changed[position : position + 1] = chance.randbytes(1)
            case 1:
                changed[position] ^= 1 << chance.randrange(8)
            case 2:
                changed[position : position + 4] = struct.pack("<I", chance.choice(NUMBERS) % 2**32)
            case 3:
                changed[position : position + 8] = struct.pack("<Q", chance.choice(NUMBERS))
            case 4:
                del changed[position : position + chance.randrange(1, 64)]
            case 5:
                changed[position:position] = chance.randbytes(chance.randrange(1, 64))
            case _:
                source = chance.randrange(head)
                changed[position : position + 32] = changed[source : source + 32]
        if not changed:
            break
    if chance.random() < 0.1:
        del changed[chance.randrange(len(changed) + 1) :]
    return bytes(changed)


def fuzz_one(path: Path, data: bytes) -> bool:
    """Return whether `data` is refused; anything but a valid model or `ModelError` fails the test."""
    path.write_bytes(data)
    with within(seconds=2):
        try:
            manifest = check(path)
        except ModelError:
            return True
    assert 1 <= manifest.n_layers <= 512
    assert sum(tensor.nbytes for tensor in manifest.tensors) <= len(data)
    assert isinstance(manifest.cuts, list)
    assert manifest.cuts_in_words
    assert manifest.token_bytes(0, manifest.n_layers - 1) >= 0
    return False


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "phi3", "qwen2", "mamba"])
def test_mutated_models_are_valid_or_refused(tmp_path: Path, architecture: str) -> None:
    metadata = {"attention.sliding_window": 32, "attention.key_length": HEAD, "attention.value_length": HEAD}
    source = write_model(tmp_path / "x.gguf", architecture, 2, metadata=metadata if architecture == "gemma3" else None)
    data, head = source.read_bytes(), GGUFFile.open(source).tensors[0].offset
    chance = random.Random(architecture)
    refused = [fuzz_one(tmp_path / "case.gguf", mutated(chance, data, head)) for _ in range(1000)]
    assert 300 < sum(refused) < 1000  # some mistakes (in a token's text, say) leave a valid file


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    source = write_model(tmp_path / "x.gguf", "llama", 2)
    data, file = source.read_bytes(), GGUFFile.open(source)
    end = file.tensors[-1].offset + file.tensors[-1].nbytes
    ends = [*range(0, file.tensors[0].offset, 23), *range(file.tensors[0].offset, end, 499), end - 1]
    assert len(ends) > 400
    assert all(fuzz_one(tmp_path / "case.gguf", data[:length]) for length in ends)
    assert not fuzz_one(tmp_path / "case.gguf", data[:end])


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    chance = random.Random(1)
    for _ in range(1000):
        body = chance.randbytes(chance.randrange(4096))
        assert fuzz_one(tmp_path / "case.gguf", body)
        small = start(chance.randrange(4), chance.randrange(4)) + body
        assert fuzz_one(tmp_path / "case.gguf", small)


def test_mutations_of_the_shipped_model_are_valid_or_refused(tmp_path: Path) -> None:
    data = shipped_model().read_bytes()
    head = GGUFFile.open(shipped_model()).tensors[0].offset
    before = data.index(b"tokenizer.ggml.tokens")
    tail = data.index(b"tokenizer.ggml.bos_token_id")
    path = tmp_path / "case.gguf"
    path.write_bytes(data)
    chance = random.Random(2)
    refused = 0
    for _ in range(30):
        position = chance.choice((chance.randrange(before), chance.randrange(tail, head)))
        with path.open("r+b") as file:
            file.seek(position)
            file.write(chance.randbytes(4))
        try:
            check(path)
        except ModelError:
            refused += 1
        with path.open("r+b") as file:
            file.seek(position)
            file.write(data[position : position + 4])
    assert refused > 5
    check(path)


def test_mutated_manifests_are_valid_or_refused(tmp_path: Path) -> None:
    source = write_model(tmp_path / "x.gguf", "llama", 2)
    draft = check(source)
    tokenizer, _ = pack_vocabulary(vocabulary(GGUFFile.open(source)))
    data = draft.with_hashes(tokenizer, dict.fromkeys((t.name for t in draft.tensors), "ab" * 32)).encode()
    assert Manifest.decode(data).encode() == data
    chance = random.Random(3)
    refused = 0
    for _ in range(1500):
        try:
            Manifest.decode(mutated(chance, data, len(data)))
        except ModelError:
            refused += 1
    assert 500 < refused < 1500


SURVIVOR = """
import sys
import numpy as np
from ainet.errors import AinetError
from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.segments import Segment
for line in sys.stdin:
    try:
        with Llama(line.strip(), hidden_out=False, n_ctx=64, n_ubatch=16) as llama:
            llama.decode(np.arange(8, dtype=np.int32), [Segment(0, 0, 8, 1)])
            print("decoded", flush=True)
    except AinetError:
        print("refused", flush=True)
"""
KEYS = (
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.sliding_window"),
    *("attention.sliding_window_pattern", "block_count", "context_length", "embedding_length", "expert_count"),
    *("expert_group_count", "expert_used_count", "feed_forward_length", "nextn_predict_layers", "pooling_type"),
    *("rope.dimension_count", "rope.dimension_count_swa", "rope.freq_base", "rope.scaling.type", "vocab_size"),
)


@pytest.mark.node
def test_llama_cpp_survives_what_is_accepted(tmp_path: Path) -> None:
    chance = random.Random(4)
    accepted = []
    for index, architecture in enumerate(["llama", "gemma3", "phi3", "qwen2", "qwen3", "granite", "smollm3"]):
        options = {"attention.sliding_window": 32, "attention.key_length": HEAD, "attention.value_length": HEAD}
        metadata = {"gemma3": options, "granite": {"logit_scale": 2.0}}.get(architecture)
        source = write_model(tmp_path / f"{architecture}.gguf", architecture, 2, metadata=metadata)
        if architecture == "gemma3":
            source = write_model(source, architecture, 7, metadata=options)
        original = GGUFFile.open(source).metadata
        for case in range(120):
            changed = dict(original)
            for key in chance.sample(KEYS, chance.choice((1, 1, 2))):
                small = [chance.choice((0, 1, 2, 4)) for _ in range(chance.choice((1, 2, 7)))]
                changed[f"{architecture}.{key}"] = chance.choice(
                    (
                        Value.of(Kind.UINT32, chance.choice((0, 1, 2, 3, 4, 8, 16, 64, 100, 2**16, 2**31, 2**32 - 1))),
                        Value.of(Kind.FLOAT32, chance.choice((0.0, -1.0, 0.5, 1e38, float("nan")))),
                        Value.of(Kind.STRING, chance.choice(("", "yarn", "longrope"))),
                        Value.array(chance.choice((Kind.UINT32, Kind.BOOL)), small),
                    )
                )
            path = rewrite(source, changed).rename(tmp_path / f"{index}-{case}.gguf")
            try:
                check(path)
            except ModelError:
                path.unlink()
            else:
                accepted.append(str(path))
    child = subprocess.run(
        [sys.executable, "-c", SURVIVOR],
        input="\n".join(accepted),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    )
    answers = child.stdout.split()
    assert child.returncode == 0, f"{accepted[len(answers)]} ended llama.cpp: {child.stderr[-500:]}"
    assert len(answers) == len(accepted) > 100
    assert answers.count("decoded") > 50
