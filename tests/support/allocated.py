"""What llama.cpp would allocate for a file without weights."""

from __future__ import annotations

import ctypes
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.models.gguf_writer import header
from ainet.models.shard_layout import layout, shard_metadata
from support.tiny_architectures import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ainet.models.gguf_values import Value
    from ainet.models.manifest import Manifest

MIB = 1 << 20


class Allocated(NamedTuple):
    """Bytes of the weights; of keys, values and states; and of everything else that a context has."""

    weights: int
    caches: float
    others: float


def write_shard(path: Path, manifest: Manifest, first: int, last: int, vocabulary: Mapping[str, Value]) -> Path:
    """Write the shard with the layers [first, last], without its weights."""
    entries = layout(manifest, first, last)
    metadata = shard_metadata(manifest, first, last, vocabulary)
    head, _, size = header(metadata, [(entry.name, entry.shape, entry.type) for entry in entries])
    path.write_bytes(head)
    os.truncate(path, size + ALIGNMENT)
    return path


def allocated(
    path: Path, weights: int, *, n_ctx: int, sequences: int, n_ubatch: int, outputs: int, rollback: int = 0
) -> Allocated:
    """Return what a context takes, without taking it."""
    lines: list[str] = []
    log = C.llama_log_callback(lambda _level, text, _data: lines.append(text.decode(errors="replace")))
    C.llama_log_set(log, ctypes.c_void_p(0))
    params = C.llama_model_default_params()
    params.no_alloc, params.load_mode, params.use_extra_bufts = True, C.LLAMA_LOAD_MODE_NONE, False
    model = C.llama_model_load_from_file(str(path).encode(), params)
    assert model, lines[-3:]
    options = C.llama_context_default_params()
    options.n_ctx, options.n_seq_max, options.n_batch, options.n_ubatch = n_ctx, sequences, n_ubatch, n_ubatch
    options.n_outputs_max = max(outputs, sequences)
    options.swa_full, options.n_rs_seq = False, rollback
    options.kv_unified, options.flash_attn_type = True, C.LLAMA_FLASH_ATTN_TYPE_ENABLED
    context = C.llama_init_from_model(model, options)
    assert context, lines[-3:]
    C.llama_free(context)
    C.llama_model_free(model)
    C.llama_log_set(_SILENT, ctypes.c_void_p(0))
    text = "".join(lines)

    def total(pattern: str) -> float:
        return sum(MIB * float(number) for number in re.findall(pattern + r"\s*([\d.]+) MiB", text))

    return Allocated(
        weights,
        total(r"(?:llama_kv_cache|llama_memory_recurrent): size ="),
        total(r"(?:compute|output) buffer size ="),
    )


_SILENT = C.llama_log_callback(lambda *_: None)
