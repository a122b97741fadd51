"""(a) Tokens per second of one process, of ainet with 1 to 4 stages, and of llama.cpp's RPC backend.

Every variant has one thread a stage. The variants take turns, so that a noisy machine is equally noisy to all; medians
count.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desk import desk
from rpc import PlainProcess, RpcServer

from ainet.api.node import status
from ainet.resources import monitor
from ainet.units import show_bytes

if TYPE_CHECKING:
    from ainet.client.answer import Answer
    from ainet.client.client import NodeClient

STAGES = (1, 2, 3, 4)
N_TOKENS = 128
N_PROMPT = 512
N_EMBD = 576
#: Text of which SmolLM2's tokenizer makes at least `N_PROMPT` tokens, one a word.
WORDS = "The quick brown fox jumps over the lazy dog and then the dog runs after the fox through the deep dark forest"


class Plain:
    """llama.cpp without ainet: alone, or with this many RPC servers of one thread each."""

    def __init__(self, python: str, n_servers: int = 0) -> None:
        self._servers = [RpcServer(python) for _ in range(n_servers)]
        self._client = PlainProcess(python, *(server.address for server in self._servers))

    def measure(self) -> dict[str, float]:
        """Return tokens a second for prompt and decoding."""
        prompt = self._client.run(list(range(1000, 1000 + N_PROMPT)), 1)
        decode = self._client.run(list(range(1000, 1016)), N_TOKENS)
        return {"prompt": N_PROMPT / prompt["prompt_s"], "decode": (N_TOKENS - 1) / decode["decode_s"]}

    def stop(self) -> None:
        """End all of them."""
        self._client.stop()
        for server in self._servers:
            server.stop()


class Ainet:
    """A node whose stages have one thread each."""

    def __init__(self, client: NodeClient, n_stages: int) -> None:
        self._client = client
        self._n_stages = n_stages
        self._words = " ".join([WORDS] * 30).split()
        self._ask(16, 2)  # loads the pipeline

    def measure(self) -> dict[str, float]:
        """Return tokens a second for prompt and decoding."""
        prompt = self._ask(N_PROMPT, 1).timings
        decode = self._ask(16, N_TOKENS).timings
        computed = prompt.prompt_tokens - prompt.reused_tokens
        return {"prompt": computed / prompt.first_token_s, "decode": decode.tokens_per_s}

    def figures(self) -> list[dict[str, Any]]:
        """Return what each stage measured, with its process's memory."""
        found = self._client.call(status)
        (pipeline,) = [one for one in found.pipelines if len(one.placement) == self._n_stages]
        memory = {worker.pid: worker.memory for member in found.members for worker in member.workers}
        return [{**vars(stage), "memory": memory[stage.pid]} for stage in pipeline.stages]

    def bytes_per_token(self) -> list[float]:
        """Return the bytes that each stage sends to the next for one generated token."""
        before = self._sent()
        n = len(self._ask(16, N_TOKENS).tokens) - 1
        one = self._sent()
        self._ask(16, 1)  # the prompt alone
        two = self._sent()
        return [(one[i] - before[i] - (two[i] - one[i])) / n for i in range(len(before))]

    def stop(self) -> None:
        """Unload the pipeline."""
        self._client.unload()

    def _sent(self) -> list[int]:
        return [figure["bytes_sent"] for figure in self.figures()]

    def _ask(self, n_prompt: int, n: int) -> Answer:
        text = " ".join(self._words[:n_prompt])
        # A grammar without an end would cost time; the seed and the temperature make an early end unlikely.
        options = {"raw": True, "temperature": 0.0, "max_tokens": n, "stages": self._n_stages}
        return self._client.ask(text, **options)


def measure(rounds: int, rpc_python: str | None) -> dict[str, Any]:
    """Measure every variant `rounds` times in turn."""
    results: dict[str, list[dict[str, float]]] = {}
    extra: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(desk(kept_tokens=0, speculate=False))
        idle = [worker.memory for member in client.call(status).members for worker in member.workers]
        extra["idle_worker_bytes"] = idle[0]
        extra["idle_node_bytes"] = client.call(status).node.pss_bytes
        variants: dict[str, Any] = {"one llama.cpp process": Plain(sys.executable)}
        for n in STAGES:
            variants[f"ainet, {n} stage{'s' * (n > 1)}"] = Ainet(client, n)
        if rpc_python:
            for n in STAGES:
                variants[f"llama.cpp RPC, {n} server{'s' * (n > 1)}"] = Plain(rpc_python, n)
        for variant in variants.values():
            stack.callback(variant.stop)
        for i in range(rounds):
            for name, variant in variants.items():
                print(f"round {i + 1}/{rounds}: {name}", file=sys.stderr, flush=True)
                results.setdefault(name, []).append(variant.measure())
        for n in STAGES:
            variant = variants[f"ainet, {n} stage{'s' * (n > 1)}"]
            extra[f"stages_{n}"] = {"memory": variant.figures(), "bytes_per_token": variant.bytes_per_token()}
    medians = {
        name: {kind: statistics.median(run[kind] for run in runs) for kind in ("decode", "prompt")}
        for name, runs in results.items()
    }
    base = medians["one llama.cpp process"]
    for name, runs in results.items():
        for kind in ("decode", "prompt"):
            pairs = zip(runs, results["one llama.cpp process"], strict=True)
            medians[name][f"{kind}_ratio"] = statistics.median(a[kind] / b[kind] for a, b in pairs)
    extra["memory_speed_bytes_per_s"] = monitor.memory_speed(Path(tempfile.gettempdir()))
    return {"rounds": rounds, "one_process": base, "variants": medians, **extra}


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"\n{'one thread a stage':<28}{'decode tok/s':>14}{'ratio':>8}{f'prompt {N_PROMPT} tok/s':>18}{'ratio':>8}")
    for name, row in found["variants"].items():
        print(
            f"{name:<28}{row['decode']:>14.1f}{row['decode_ratio']:>8.3f}"
            f"{row['prompt']:>18.1f}{row['prompt_ratio']:>8.3f}"
        )
    idle = found["idle_worker_bytes"]
    print(f"\nidle node (server, engine, one worker): {show_bytes(found['idle_node_bytes'])}")
    columns = f"{'process':>10}{'idle worker':>12}{'buffers':>10}{'over both':>11}{'bytes/token':>13}{'ratio':>7}"
    print(f"{'stage':<24}{columns}")
    for n in STAGES:
        part = found[f"stages_{n}"]
        for i, stage in enumerate(part["memory"]):
            buffers = sum(stage["buffers"].values())
            over = stage["memory"] - idle - buffers
            sent = part["bytes_per_token"][i]
            ratio = f"{sent / (4 * N_EMBD):.3f}" if i < n - 1 else "–"
            layers = f"{n}: layers {stage['first_layer']}–{stage['last_layer']}"
            print(
                f"{layers:<24}{show_bytes(stage['memory']):>10}{show_bytes(idle):>12}{show_bytes(buffers):>10}"
                f"{show_bytes(over):>11}{sent:>13.0f}{ratio:>7}"
            )
