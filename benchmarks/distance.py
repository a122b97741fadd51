"""(b) Tokens of three devices that are 5, 20 or 50 ms apart: ainet with and without drafts, and llama.cpp's RPC.

Each device is a network namespace of its own, and everything between two of them takes that long, one way (root and
TAP devices are needed). A fourth device, which is as far from them, asks: it has no room for layers. Each of the others
computes a third of them with one thread. The text is one that the answer repeats, as when something is edited.
(f) What the plan predicted is compared with what was measured.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpc import PlainProcess, RpcServer

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from support.lan import Lan, LanNodes, lan_nodes, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

DISTANCES = (0.005, 0.020, 0.050)  # s, one way
ASKER, NAMES = "phone", ("desk", "attic", "cellar")
NO_ROOM = {ASKER: {"memory": "60MB"}}
N_TOKENS = 64
PORT = 50052
FIRST = "the meeting is at ten oclock in the large room on the second floor and everybody is asked to bring a pen"
SECOND = (
    "the quick brown fox jumps over the lazy dog while the dog sleeps in the sun near the old stone bridge and the fox "
    "watches the river and waits for the evening to come so that it can go home to its children in the deep dark forest"
)
TEXT = f"Text: {FIRST}\nThe same text: {FIRST}\n\nText: {SECOND}\nThe same text:"
SETTINGS = {"stage_threads": 1, "threads": 1, "context_window": 1024, "kept_tokens": 0}


@contextlib.contextmanager
def servers(lan: Lan, python: str) -> Iterator[PlainProcess]:
    """Run an RPC server on each device, and a client on the first one; yields the client."""
    with contextlib.ExitStack() as stack:
        addresses = [f"{lan.hosts[name]}:{PORT}" for name in NAMES]
        for name, address in zip(NAMES, addresses, strict=True):
            stack.callback(RpcServer(python, address, tuple(lan.inside(name))).stop)
        client = PlainProcess(python, *addresses, prefix=tuple(lan.inside(ASKER)))
        stack.callback(client.stop)
        yield client


def rpc_rate(client: PlainProcess, n: int) -> float:
    """Return tokens a second of the RPC backend."""
    return (n - 1) / client.run(list(range(1000, 1016)), n)["decode_s"]


def ask(nodes: LanNodes) -> tuple[float, list[int]]:
    """Return tokens a second of an answer, and its tokens."""
    options = {"raw": True, "temperature": 0.0, "max_tokens": N_TOKENS, "stages": len(NAMES)}
    answer = nodes.client(ASKER, lambda node: node.ask(TEXT, **options))
    assert ASKER not in {part.node for part in answer.placement}
    return answer.timings.tokens_per_s, answer.tokens


def predicted(nodes: LanNodes) -> float:
    """Return the time of a token that the plan predicts (s), once the model was measured."""
    return nodes.client(ASKER, lambda node: node.plan("smollm2", len(NAMES))).seconds


def measure(rounds: int, rpc_python: str | None) -> dict[str, Any]:
    """Measure everything at every distance."""
    found: dict[str, Any] = {}
    for distance in DISTANCES:
        rates: dict[str, list[float]] = {}
        texts = []
        for drafts in (False, True):
            settings = SETTINGS | {"speculate": drafts}
            with (
                tempfile.TemporaryDirectory() as folder,
                lan_nodes(Path(folder), ASKER, *NAMES, cable={"apart": distance}, own=NO_ROOM, **settings) as nodes,
            ):
                wait_for(lambda nodes=nodes: all(nodes.reached(ASKER, name) != "no" for name in NAMES), 60)
                ask(nodes)  # loads the pipeline
                for _ in range(rounds):
                    rate, tokens = ask(nodes)
                    rates.setdefault(f"ainet{', drafts' if drafts else ''}", []).append(rate)
                    texts.append(tokens)
                if not drafts:
                    expected = predicted(nodes)
        if rpc_python:
            with (
                Lan(f"rp{os.getpid() % 10000}", ASKER, *NAMES, apart=distance) as lan,
                servers(lan, rpc_python) as client,
            ):
                rpc_rate(client, 2)
                rates["llama.cpp RPC"] = [rpc_rate(client, 16) for _ in range(rounds)]
        medians = {name: statistics.median(values) for name, values in rates.items()}
        print(f"{1000 * distance:.0f} ms: {medians}", file=sys.stderr, flush=True)
        found[f"{1000 * distance:.0f} ms"] = {
            "tokens_per_s": medians,
            "predicted_s": expected,
            "measured_s": 1 / medians["ainet"],
            "same_text": all(text == texts[0] for text in texts),
        }
    return {"rounds": rounds, "distances": found}


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    columns = ("llama.cpp RPC", "ainet", "ainet, drafts")
    heading = "".join(f"{name:>16}" for name in columns)
    print(f"\n{'tokens/s':<10}{heading}{'ainet : RPC':>14}{'drafts : RPC':>14}{'same text':>11}")
    for distance, row in found["distances"].items():
        rates = row["tokens_per_s"]
        rpc = rates.get("llama.cpp RPC", float("nan"))
        cells = "".join(f"{rates.get(name, float('nan')):>16.1f}" for name in columns)
        ratios = f"{rates['ainet'] / rpc:>14.2f}{rates['ainet, drafts'] / rpc:>14.2f}"
        print(f"{distance:<10}{cells}{ratios}{row['same_text']!s:>11}")
    print(f"\n{'ms a token':<10}{'predicted':>16}{'measured':>16}{'ratio':>14}")
    for distance, row in found["distances"].items():
        before, after = 1000 * row["predicted_s"], 1000 * row["measured_s"]
        print(f"{distance:<10}{before:>16.1f}{after:>16.1f}{before / after:>14.2f}")
