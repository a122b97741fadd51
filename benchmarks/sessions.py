"""Total tokens per second of 1 to 8 sessions at once on pipelines of 1, 2 and 4 stages.

    python benchmarks/sessions.py [--rounds N] [--output FILE]

One thread a stage, so that a pipeline of one stage uses one core, and one of two stages two: with one session they take
turns, with several they work at the same time. The variants take turns; medians count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desk import desk

if TYPE_CHECKING:
    from ainet.client import NodeClient

STAGES = (1, 2, 4)
SESSIONS = (1, 2, 4, 8)
N_TOKENS = 64
#: Prompts that differ from the first token on, so that nothing is shared.
WORDS = ("River", "Mountain", "Forest", "Harbour", "Winter", "Garden", "Market", "Island")


class Asker:
    """Asks a node so many questions at once."""

    def __init__(self, client: NodeClient) -> None:
        self._client = client

    def measure(self, stages: int, sessions: int) -> float:
        """Return tokens a second of all sessions together, from the first token of the first to the last of all."""
        with ThreadPoolExecutor(sessions) as pool:
            told = [time_of for found in pool.map(lambda i: self._ask(stages, i), range(sessions)) for time_of in found]
        begun = min(told)
        return (len(told) - sessions) / (max(told) - begun)

    def _ask(self, stages: int, i: int) -> list[float]:
        """Return when each token arrived."""
        options = {"raw": True, "temperature": 0.0, "max_tokens": N_TOKENS, "stages": stages}
        text = f"{WORDS[i]} is a word that I like, and this is a story about it. Once upon a time"
        times: list[float] = []
        for event in self._client.generate([{"role": "user", "content": text}], **options):
            if event["event"] == "text":
                times += [time.perf_counter()] * len(event["tokens"])
        return times


def measure(rounds: int) -> dict[str, Any]:
    """Measure every variant `rounds` times in turn."""
    found: dict[str, list[float]] = {}
    with desk(sessions=8, context_window=2048, speculate=False, objective="throughput") as client:
        asker = Asker(client)
        for stages in STAGES:
            asker.measure(stages, 1)  # loads the pipeline
        for i in range(rounds):
            print(f"round {i + 1}/{rounds}", file=sys.stderr, flush=True)
            for stages in STAGES:
                for sessions in SESSIONS:
                    rate = asker.measure(stages, sessions)
                    found.setdefault(f"{stages} stages, {sessions} sessions", []).append(rate)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    return {"rounds": rounds, "cores": os.cpu_count(), "tokens_per_s": medians}


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    rates = found["tokens_per_s"]
    print(f"\n{'total tok/s':<12}" + "".join(f"{f'{n} sessions':>14}" for n in SESSIONS) + f"{'4 to 1':>10}")
    for stages in STAGES:
        row = [rates[f"{stages} stages, {n} sessions"] for n in SESSIONS]
        print(f"{f'{stages} stages':<12}" + "".join(f"{rate:>14.1f}" for rate in row) + f"{row[2] / row[0]:>10.2f}")


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/sessions.json"))
    options = parser.parse_args()
    found = measure(options.rounds)
    show(found)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\nsaved as {options.output}")


if __name__ == "__main__":
    main()
