"""(c) Total tokens per second of 1 to 8 sessions at once on pipelines of 1, 2 and 4 stages.

One thread a stage, so that a pipeline of one stage uses one core, and one of two stages two: with one session they take
turns, with several they work at the same time. What two cores can do at most is measured with llama.cpp processes that
know nothing of each other. What four stages would do with a core each is computed from the time that each of them takes
for a token: no more rounds a second than the slowest stage allows. The variants take turns; medians count.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from desk import desk
from rpc import PlainProcess

from ainet.api.generate import Text
from ainet.api.node import status

if TYPE_CHECKING:
    from ainet.client.client import NodeClient

STAGES = (1, 2, 4)
SESSIONS = (1, 2, 4, 8)
N_TOKENS = 64
PROMPT = list(range(1000, 1016))
#: Prompts that differ from the first token on, so that nothing is shared.
WORDS = ("River", "Mountain", "Forest", "Harbour", "Winter", "Garden", "Market", "Island")


class Asker:
    """Asks a node this many questions at once."""

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
            if isinstance(event, Text):
                times += [time.perf_counter()] * len(event.tokens)
        return times


def processes(n: int) -> float:
    """Return tokens a second of this many llama.cpp processes at once, each with a thread and a whole model."""
    with contextlib.ExitStack() as stack:
        found = [PlainProcess(sys.executable) for _ in range(n)]
        for process in found:
            stack.callback(process.stop)
        pool = stack.enter_context(ThreadPoolExecutor(n))
        begun = time.perf_counter()
        list(pool.map(lambda process: process.run(PROMPT, 2 * N_TOKENS), found))
        return n * 2 * N_TOKENS / (time.perf_counter() - begun)


def with_a_core_each(stage_seconds: list[float], sessions: int) -> float:
    """Return tokens a second of a ring whose stages all compute at once, each for one session at a time."""
    return min(sessions / sum(stage_seconds), 1 / max(stage_seconds))


def stage_seconds(client: NodeClient, stages: int, rate: float) -> list[float]:
    """Return what a token takes in each stage and on the way to it (s), if one session gets `rate` tokens a second."""
    (pipeline,) = [one for one in client.call(status).pipelines if len(one.placement) == stages]
    computing = [stage.token_seconds for stage in pipeline.stages]
    way = max(0.0, 1 / rate - sum(computing)) / stages
    return [seconds + way for seconds in computing]


def measure(rounds: int) -> dict[str, Any]:
    """Measure every variant `rounds` times in turn."""
    found: dict[str, list[float]] = {}
    simulated: dict[str, list[float]] = {}
    limits: dict[int, list[float]] = {}
    with desk(sessions=8, context_window=2048, speculate=False, objective="throughput", replicas=0) as client:
        asker = Asker(client)
        for stages in STAGES:
            asker.measure(stages, 1)  # loads the pipeline
        for i in range(rounds):
            print(f"round {i + 1}/{rounds}", file=sys.stderr, flush=True)
            for n in (1, 2):
                limits.setdefault(n, []).append(processes(n))
            for stages in STAGES:
                for sessions in SESSIONS:
                    rate = asker.measure(stages, sessions)
                    found.setdefault(f"{stages} stages, {sessions} sessions", []).append(rate)
                    if sessions == 1:
                        seconds = stage_seconds(client, stages, rate)
                for sessions in SESSIONS:
                    rate = with_a_core_each(seconds, sessions)
                    simulated.setdefault(f"{stages} stages, {sessions} sessions", []).append(rate)
    return {
        "rounds": rounds,
        "cores": os.cpu_count(),
        "tokens_per_s": {name: statistics.median(rates) for name, rates in found.items()},
        "simulated_tokens_per_s": {name: statistics.median(rates) for name, rates in simulated.items()},
        "processes_tokens_per_s": {n: statistics.median(rates) for n, rates in limits.items()},
    }


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print(f"\n{'total tok/s':<28}" + "".join(f"{f'{n} sessions':>12}" for n in SESSIONS) + f"{'4 to 1':>8}")
    rows = [(stages, "", found["tokens_per_s"]) for stages in STAGES]
    rows += [(4, ", a core each (simulated)", found["simulated_tokens_per_s"])]
    for stages, how, rates in rows:
        row = [rates[f"{stages} stages, {n} sessions"] for n in SESSIONS]
        print(f"{f'{stages} stages{how}':<28}" + "".join(f"{rate:>12.1f}" for rate in row) + f"{row[2] / row[0]:>8.2f}")
    one, two = found["processes_tokens_per_s"].values()
    print(
        f"{'llama.cpp processes':<28}{one:>12.1f}{two:>12.1f}{'':>24}{two / one:>8.2f}  (2 to 1: what two cores can do)"
    )
