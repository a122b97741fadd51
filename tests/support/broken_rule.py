"""Split a tiny model with a part of its rule left out, and say what becomes of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ainet.errors import AinetError
from ainet.models.architectures.layers import Recurrence, Window
from ainet.models.architectures.rules import Needs
from support.shard_pipeline import Pipeline

#: What each part of the rules is for: without it, the logits of a stage differ, or llama.cpp refuses it.
BROKEN: dict[str, dict[str, Any]] = {
    "gpt-oss": {"window": None},
    "mimo2": {"unbounded": False},
    "olmo3": {"window": None},
    "cohere2": {"window": None, "needs": Needs()},
    "exaone-moe": {"window": None, "needs": Needs()},
    "smallthinker": {"window": Window(period=3, dense_first=True, size=4096)},
    "mellum": {"window": None},
    "plamo3": {"window": None},
    "gemma4": {"scaled_input": False},
    "granitehybrid": {"only_first": ()},
    "granitemoe": {"only_first": ()},
    "granite_swa": {"only_first": ()},
    "grok": {"after_first": {}},
    "minicpm": {"after_first": {}},
    "qwen35": {"recurrence": Recurrence.WITHOUT_HEADS, "needs": Needs()},
    "qwen35-interval": {"recurrence": Recurrence.WITHOUT_HEADS, "needs": Needs()},
    "lfm2": {"shared": ()},
    "minimax-m2": {"output": ()},
    "phimoe": {"output": ("output.weight",)},
    "qwen3vl": {"dropped": ()},
}


def main(name: str, path: str, store: str) -> None:
    model = Pipeline(Path(store), Path(path))
    manifest = model.manifest
    whole = model.logits()
    vars(manifest)["split"] = replace(manifest.split, **BROKEN[name])  # where the cached property keeps it
    for derived in ("layers", "cuts"):
        vars(manifest).pop(derived, None)
    try:
        differs = any(np.abs(model.logits(cut) - whole).max() for cut in manifest.cuts)
    except AinetError:
        sys.stdout.write("refused\n")
    else:
        sys.stdout.write("differs\n" if differs else "exact\n" if manifest.cuts else "refused\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
