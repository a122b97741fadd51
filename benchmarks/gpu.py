"""What a pipeline does on a GPU: exactness of stages, tokens of a model in the shape of 8B, sessions at once.

    python benchmarks/gpu.py [--rounds N] [--small] [--rpc-python PYTHON] [--output FILE]

It builds nothing: llama.cpp must have been built for the GPU (docs/gpus.md), and for RPC besides where that is compared
with. With ``--small`` the model is the one of 1.5B. The variants take turns; medians count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from callback import N_TOKENS, PROMPT
from desk import desk
from rpc import PlainProcess, RpcServer, has_backend, model_path
from sessions import Asker
from shapes import LARGE, SMALL, write_llama

from ainet.models.shards import ShardStore
from ainet.models.tensors import TensorStore
from ainet.resources.gpus import find_gpu
from ainet.stages.llama.embedding import Embedding
from ainet.stages.llama.llama import Llama
from ainet.stages.protocol.segments import Segment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ainet.client.client import NodeClient
    from ainet.models.manifest import Manifest

#: A prompt in chunks, and single tokens.
STEPS = (512, 88, *[1] * 40)
STAGES = (1, 2, 3)
SESSIONS = (1, 4, 8)


@dataclass
class Found:
    """What was measured.

    Attributes
    ----------
    gpu
        The GPU.
    differences
        Largest difference of logits from the whole model's, by model and stages.
    tokens
        Milliseconds of a token, and how it compares with one llama.cpp process, by variant.
    sessions
        Tokens a second of all sessions together, by stages and sessions.
    """

    gpu: dict[str, Any] = field(default_factory=dict)
    differences: dict[str, dict[int, float]] = field(default_factory=dict)
    tokens: dict[str, dict[str, float]] = field(default_factory=dict)
    sessions: dict[int, dict[int, float]] = field(default_factory=dict)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rpc-python", default=sys.executable)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu.json"))
    options = parser.parse_args()
    found = Found(gpu=msgspec.to_builtins(asyncio.run(find_gpu(logging.getLogger("gpu")))))
    with tempfile.TemporaryDirectory() as folder:
        model = write_llama(Path(folder) / "random.gguf", SMALL if options.small else LARGE)
        for name, path in (("SmolLM2-135M", model_path()), ("random", model)):
            found.differences[name] = differences(path, Path(folder) / name)
        rpc = options.rpc_python if has_backend(options.rpc_python) else None
        speeds(found, model, options.rounds, rpc)
    show(found)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(asdict(found), indent=2) + "\n")
    print(f"\nsaved as {options.output}")


def differences(path: Path, folder: Path) -> dict[int, float]:
    """Return the largest difference of the logits of two and three stages from those of the whole model."""
    with TensorStore(folder) as store:
        manifest, shards = store.register(path), ShardStore(store)
        whole = _logits(shards, manifest, 1)
        return {n: float(np.abs(_logits(shards, manifest, n) - whole).max()) for n in STAGES[1:]}


def _logits(shards: ShardStore, manifest: Manifest, n: int) -> NDArray[np.float32]:
    bounds = [manifest.n_layers * i // n for i in range(n + 1)]
    made = [shards.assemble(manifest, a, b - 1) for a, b in pairwise(bounds)]
    with contextlib.ExitStack() as stack:
        stages = [
            stack.enter_context(
                Llama(shard.path, hidden_out=not shard.is_last, n_ctx=1024, n_ubatch=max(STEPS), gpu=True)
            )
            for shard in made
        ]
        embedding = Embedding(made[0]) if n > 1 else None
        found, position = [], 0
        for size in STEPS:
            tokens = ((np.arange(position, position + size) * 7919) % manifest.n_vocab).astype(np.int32)
            x: Any = embedding.look_up(tokens) if embedding is not None else tokens
            for stage in stages:
                x = stage.decode(x, [Segment(0, position, size, 1)])
            found.append(stages[-1].logits().copy())
            position += size
        if embedding is not None:
            embedding.close()
    return np.array(found)


def speeds(found: Found, model: Path, rounds: int, rpc: str | None) -> None:
    """Measure tokens of one session, against llama.cpp alone and its RPC backend, and tokens of several."""
    seconds: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        processes = {"one llama.cpp process": PlainProcess(sys.executable, model=model, gpu=True)}
        for n in (1, 2) if rpc else ():
            servers = [RpcServer(str(rpc), gpu=True) for _ in range(n)]
            for server in servers:
                stack.callback(server.stop)
            addresses = [server.address for server in servers]
            processes[f"llama.cpp RPC, {n} servers"] = PlainProcess(str(rpc), *addresses, model=model)
        for process in processes.values():
            stack.callback(process.stop)
        settings = {"gpu": True, "kept_tokens": 0, "speculate": False, "model_paths": [str(model)], "model": str(model)}
        client = stack.enter_context(desk(**settings))
        names = {n: _name(client, n) for n in STAGES}
        for run in range(rounds + 1):
            print(f"round {run}/{rounds}", file=sys.stderr, flush=True)
            measured = {
                name: process.run(list(range(1000, 1012)), N_TOKENS)["decode_s"] / (N_TOKENS - 1)
                for name, process in processes.items()
            }
            measured |= {names[n]: 1 / _ask(client, n) for n in STAGES}
            for name, value in measured.items() if run else ():  # the first one loads
                seconds.setdefault(name, []).append(value)
        alone = seconds["one llama.cpp process"]
        found.tokens = {
            name: {
                "ms": 1000 * statistics.median(values),
                "ratio": statistics.median(a / b for a, b in zip(alone, values, strict=True)),
            }
            for name, values in seconds.items()
        }
        asker = Asker(client)
        for n in STAGES:
            found.sessions[n] = {
                many: statistics.median(asker.measure(n, many) for _ in range(rounds)) for many in SESSIONS
            }


def _name(client: NodeClient, stages: int) -> str:
    """Return the name of a variant, and how many of its stages are planned on processors, since that is quicker."""
    slow = sum(not stage.gpu for stage in client.plan(None, stages).stages)
    return f"ainet, {stages} stage{'s' * (stages > 1)}" + (f", {slow} on processors" if slow else "")


def _ask(client: NodeClient, stages: int) -> float:
    answer = client.ask(PROMPT, raw=True, temperature=0.0, max_tokens=N_TOKENS, stages=stages)
    return answer.timings.tokens_per_s


def show(found: Found) -> None:
    """Print the tables."""
    print(f"{found.gpu['description']}: {found.gpu['free'] / 1e9:.1f} of {found.gpu['total'] / 1e9:.1f} GB free")
    print("\nlargest difference from the whole model")
    for name, rows in found.differences.items():
        print(f"  {name:<20}" + "".join(f"{n} stages: {value:<12.3g}" for n, value in rows.items()))
    print(f"\n{'one session':<30}{'ms a token':>12}{'ratio':>8}")
    for name, row in found.tokens.items():
        print(f"{name:<30}{row['ms']:>12.2f}{row['ratio']:>8.3f}")
    print(f"\n{'tokens/s of all sessions':<30}" + "".join(f"{many:>8}" for many in SESSIONS))
    for n, values in found.sessions.items():
        print(f"{n} stage{'s' * (n > 1):<23}" + "".join(f"{value:>8.1f}" for value in values.values()))


if __name__ == "__main__":
    main()
