"""(g) What a split costs for a token: one process, one and two stages, with the callback in C and in Python.

Of SmolLM2-135M and of a model of 1.5 billion random weights in Q4_0, one thread a stage. The variants take turns. Two
processes with a bare socket between them are the limit of every split: `of bare` is the part of it that is reached.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bare import BareRing
from desk import desk
from rpc import PlainProcess, model_path
from shapes import write_llama

from ainet.stages.llama.native import FORCE_PYTHON

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ainet.client.client import NodeClient

N_TOKENS = 64
PROMPT = "The quick brown fox jumps over the lazy dog and then runs away"
ALONE, BARE = "one llama.cpp process", "two processes, bare socket"


@contextlib.contextmanager
def callback(kind: str) -> Iterator[None]:
    """Let nodes that are started here use this callback, ``C`` or ``Python``."""
    if kind == "Python":
        os.environ[FORCE_PYTHON] = "1"
    try:
        yield
    finally:
        os.environ.pop(FORCE_PYTHON, None)


def measure(rounds: int) -> dict[str, Any]:
    """Measure both models, `rounds` times eight runs each in turn."""
    with tempfile.TemporaryDirectory() as folder:
        models = {"SmolLM2-135M": model_path(), "1.5B": write_llama(Path(folder) / "random.gguf")}
        return {name: _measure(name, path, 8 * rounds) for name, path in models.items()}


def _measure(name: str, path: Path, runs: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        alone = PlainProcess(sys.executable, model=path)
        stack.callback(alone.stop)
        bare = BareRing(path)
        stack.callback(bare.stop)
        nodes: dict[str, NodeClient] = {}
        for kind in ("C", "Python"):
            with callback(kind):
                settings = {"kept_tokens": 0, "speculate": False, "model_paths": [str(path)], "sessions": 1}
                nodes[kind] = stack.enter_context(desk(**settings))
        variants = [("C", 1), ("C", 2), ("Python", 2)]
        for kind, stages in variants:
            _ask(nodes[kind], path, stages)  # loads the pipeline
        for run in range(runs):
            print(f"{name}: run {run + 1}/{runs}", file=sys.stderr, flush=True)
            found = alone.run(list(range(1000, 1012)), N_TOKENS)
            seconds.setdefault(ALONE, []).append(found["decode_s"] / (N_TOKENS - 1))
            seconds.setdefault(BARE, []).append(bare.measure(N_TOKENS))
            for kind, stages in variants:
                words = f"ainet, {stages} stage{'s' * (stages > 1)}, callback in {kind}"
                seconds.setdefault(words, []).append(1 / _ask(nodes[kind], path, stages))
    return {
        words: {
            "ms": 1000 * statistics.median(found),
            "ratio": statistics.median(a / b for a, b in zip(seconds[ALONE], found, strict=True)),
            "of_bare": statistics.median(a / b for a, b in zip(seconds[BARE], found, strict=True)),
        }
        for words, found in seconds.items()
    }


def _ask(client: NodeClient, path: Path, stages: int) -> float:
    """Return tokens a second."""
    options = {"raw": True, "temperature": 0.0, "max_tokens": N_TOKENS, "stages": stages, "model": str(path)}
    answer = client.ask(PROMPT, **options)
    if len(answer.tokens) < N_TOKENS // 2:
        raise RuntimeError(f"The answer ended after {len(answer.tokens)} tokens.")
    return answer.timings.tokens_per_s


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print(f"\n{'one thread a stage':<42}{'ms a token':>12}{'ratio':>8}{'of bare':>9}")
    for name, variants in found.items():
        print(name)
        for words, row in variants.items():
            print(f"  {words:<40}{row['ms']:>12.2f}{row['ratio']:>8.3f}{row['of_bare']:>9.3f}")
