"""(d) How soon the first token of a long prompt comes, and that of a second question on the same text.

One thread a stage, all stages on this machine; a document of about 2,000 tokens with a question behind it. The first
question of each round is on another document; the second one differs from it in the question alone.
"""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, Any

from desk import desk

if TYPE_CHECKING:
    from ainet.api.generate import Timings
    from ainet.client.client import NodeClient

STAGES = (1, 2, 4)
SENTENCE = "In the year {} the river rose by {} inches and the fox had {} cubs."
N_SENTENCES = 85


def document(number: int) -> str:
    """Return one of many documents, which differ from the first word on."""
    years = range(1000 + 10 * number, 1000 + 10 * number + N_SENTENCES)
    return f"Report {number}. " + " ".join(SENTENCE.format(year, year % 37, year % 5) for year in years)


def first_token(node: NodeClient, text: str, stages: int) -> Timings:
    """Return the figures of an answer of one token."""
    return node.ask(text, stages=stages, temperature=0.0, max_tokens=1).timings


def measure(rounds: int) -> dict[str, Any]:
    """Measure every number of stages `rounds` times in turn."""
    runs: dict[int, list[tuple[float, float]]] = {n: [] for n in STAGES}
    tokens, number = 0, 0
    with desk(context_window=4096, memory="4GB", threads=1) as node:
        for n in STAGES:
            first_token(node, "Hello", n)  # loads the pipeline
        for i in range(rounds):
            for n in STAGES:
                print(f"round {i + 1}/{rounds}: {n} stages", file=sys.stderr, flush=True)
                number += 1
                text = document(number)
                first = first_token(node, f"{text} In which year did the river rise most?", n)
                second = first_token(node, f"{text} How many cubs had the fox in the last year?", n)
                assert first.reused_tokens == 0
                tokens = first.prompt_tokens
                runs[n].append((first.first_token_s, second.first_token_s))
    medians = {n: [statistics.median(times) for times in zip(*runs[n], strict=True)] for n in STAGES}
    return {"rounds": rounds, "prompt_tokens": tokens, "first_token_s": medians}


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    alone = found["first_token_s"][STAGES[0]][0]
    print(f"\n{found['prompt_tokens']} tokens       first token   against 1 stage   second question   sooner by")
    for n, (first, second) in found["first_token_s"].items():
        stages = f"{n} stage{'s' * (n > 1)}"
        print(f"{stages:<15}{first:>10.2f} s{alone / first:>16.2f} x{second:>16.2f} s{first / second:>11.1f} x")
