"""Let llama.cpp prepare every range of layers that the rules allow, without weights, for models with random layouts."""

from __future__ import annotations

import ctypes
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.errors import CannotSplit, ModelError
from ainet.models.gguf import open_model
from ainet.models.gguf_writer import header
from ainet.models.manifest import Manifest
from ainet.models.shard_layout import layout, shard_metadata
from ainet.models.tokenizer import vocabulary
from support.architectures import TINY
from support.tiny_architectures import ALIGNMENT, Tiny, write_tiny

SILENT = C.llama_log_callback(lambda *_: None)


def shuffled(tiny: Tiny, choose: random.Random) -> Tiny:
    """Return the model with another number and order of layers."""
    further = tiny.metadata.get("nextn_predict_layers", 0)
    n = choose.randint(2, 14)
    own = tiny.n_layers - further
    order = [*(choose.randrange(own) for _ in range(n)), *range(own, tiny.n_layers)]
    metadata: dict[str, Any] = {
        key: [value[layer] for layer in order if layer < len(value)]
        if isinstance(value, list) and len(value) in (own, tiny.n_layers)
        else value
        for key, value in tiny.metadata.items()
    }
    for key, most in (("leading_dense_block_count", n), ("full_attention_interval", 6)):
        if key in metadata or (key == "full_attention_interval" and tiny.architecture.startswith("qwen3")):
            metadata[key] = choose.randint(1, most)
    pattern = "attention.sliding_window_pattern"
    if "attention.sliding_window" in metadata and pattern not in metadata:
        metadata[pattern] = choose.randint(2, 5)
    return tiny._replace(metadata=metadata, n_layers=n + further)


def prepare(path: Path) -> bool:
    """Whether llama.cpp takes a file and prepares its graphs. It may end the process instead."""
    params = C.llama_model_default_params()
    params.no_alloc, params.load_mode = True, C.LLAMA_LOAD_MODE_NONE
    model = C.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        return False
    options = C.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max = 256, 64, 64, 2
    options.kv_unified, options.flash_attn_type = True, C.LLAMA_FLASH_ATTN_TYPE_ENABLED
    context = C.llama_init_from_model(model, options)
    if context:
        C.llama_free(context)
    C.llama_model_free(model)
    return bool(context)


def main(architecture: str, folder: str, layouts: str) -> None:
    C.llama_log_set(SILENT, ctypes.c_void_p(0))
    C.llama_backend_init()
    found = {"prepared": 0, "refused": 0, "models": 0}
    for number, name in enumerate(name for name, tiny in TINY.items() if tiny.architecture == architecture):
        for seed in range(int(layouts) + 1):
            choose = random.Random(f"{number} {seed}")
            tiny = shuffled(TINY[name], choose) if seed else TINY[name]
            try:
                path = write_tiny(Path(folder) / f"{name}-{seed}.gguf", tiny, seed=None)
                files = open_model(path)
                manifest = Manifest.draft("tiny", files)
            except (ModelError, ValueError):
                continue  # llama.cpp, or the manifest, refuses the whole
            found["models"] += 1
            words = vocabulary(files[0])
            for first in range(manifest.n_layers):
                for last in range(first, manifest.n_layers):
                    try:
                        manifest.check_range(first, last)
                    except CannotSplit:
                        found["refused"] += 1
                        continue
                    entries = layout(manifest, first, last)
                    metadata = shard_metadata(manifest, first, last, words)
                    head, _, size = header(metadata, [(entry.name, entry.shape, entry.type) for entry in entries])
                    shard = Path(folder) / "shard.gguf"
                    shard.write_bytes(head)
                    os.truncate(shard, size + ALIGNMENT)
                    doing = f"{name} {seed}: {first}-{last} of {manifest.n_layers}\n"
                    os.write(1, doing.encode())  # the last words, if llama.cpp ends the process
                    if not prepare(shard):
                        raise SystemExit("llama.cpp refuses it")
                    found["prepared"] += 1
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
