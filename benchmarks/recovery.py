"""(e) How long an answer pauses when a stage is killed, or hangs, at a random token.

One node with three stages on this machine, greedy. The pause is from the signal to the next piece of text; it holds the
notice, the loading of a new pipeline and the replay of what was said. Every text is compared with that of an answer
that nothing happened to. The same with a long prompt, beside the time that all stages need for it: the new stage alone
computes it again.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from desk import desk
from prompts import document

from ainet.api.generate import Done, PlacedStage, Start, Text

if TYPE_CHECKING:
    from ainet.client.client import NodeClient

QUESTION = "Tell me a long story about a fox, a dog and a river."
TOKENS = 200
STAGES = 3
LONG_TOKENS = 60


def ask(
    node: NodeClient,
    hurt: int | None = None,
    how: signal.Signals = signal.SIGKILL,
    *,
    question: str = QUESTION,
    max_tokens: int = TOKENS,
) -> tuple[Done, float | None]:
    """Ask; when there are `hurt` tokens, send a random stage the signal. Returns the answer and the pause (s)."""
    placement: list[PlacedStage] = []
    n, sent, pause = 0, 0.0, None
    for event in node.generate(question, stages=STAGES, temperature=0.0, max_tokens=max_tokens):
        if isinstance(event, Start):
            placement = event.placement
        elif isinstance(event, Text):
            # What was on its way when the stage was hurt is no recovery.
            if sent and pause is None and time.perf_counter() - sent > 0.25:
                pause = time.perf_counter() - sent
            n += len(event.tokens)
            if hurt is not None and not sent and n >= hurt:
                os.kill(random.choice(placement).pid, how)
                sent = time.perf_counter()
        elif isinstance(event, Done):
            return event, pause
    raise AssertionError


def measure(kills: int, hangs: int) -> dict[str, Any]:
    """Return the pauses."""
    random.seed(1)
    with desk(memory="2GB", threads=1) as node:
        whole = ask(node)[0].tokens
        begun = time.perf_counter()
        ask(node)
        seconds = time.perf_counter() - begun
        found: dict[str, Any] = {"tokens": TOKENS, "stages": STAGES, "undisturbed_s": seconds}
        for name, how, times in (("killed", signal.SIGKILL, kills), ("hung", signal.SIGSTOP, hangs)):
            pauses, same = [], 0
            for i in range(times):
                at = random.randint(1, TOKENS - 20)
                answer, pause = ask(node, at, how)
                same += answer.tokens == whole
                pauses.append((at, pause))
                print(f"{name} {i + 1}: {pauses[-1]}", file=sys.stderr, flush=True)
            found[name] = {"times": times, "same_text": same, "pauses": pauses}
    return found | {"long": measure_long(hangs)}


def measure_long(times: int) -> dict[str, Any]:
    """Return the pauses of answers to long questions, each on another document."""
    pauses, prompts, same, n_prompt = [], [], 0, 0
    with desk(context_window=4096, memory="4GB", threads=1, kept_tokens=0) as node:
        ask(node, max_tokens=1)  # loads the pipeline
        for i in range(times):
            question = f"{document(i)} Tell me about the fox and its cubs."
            whole, _ = ask(node, question=question, max_tokens=LONG_TOKENS)
            prompts.append(whole.timings.first_token_s)
            n_prompt = whole.timings.prompt_tokens
            at = random.randint(1, LONG_TOKENS // 2)
            again, pause = ask(node, at, question=question, max_tokens=LONG_TOKENS)
            same += whole.tokens == again.tokens
            pauses.append((at, pause))
            print(f"long prompt {i + 1}: {pauses[-1]}, the prompt {prompts[-1]}", file=sys.stderr, flush=True)
    return {"times": times, "same_text": same, "pauses": pauses, "prompt_tokens": n_prompt, "prompt_s": prompts}


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print(f"\n{TOKENS} tokens on {STAGES} stages, undisturbed: {found['undisturbed_s']:.1f} s")
    for name in ("killed", "hung"):
        one = found[name]
        pauses = [pause for _, pause in one["pauses"] if pause is not None]
        if pauses:
            print(
                f"a stage is {name}, {one['times']} times: pause of {statistics.median(pauses):.1f} s (median), "
                f"{max(pauses):.1f} s (longest); the same text {one['same_text']} times"
            )
    one = found["long"]
    pauses = [pause for _, pause in one["pauses"] if pause is not None]
    print(
        f"a stage is killed after a prompt of {one['prompt_tokens']} tokens, {one['times']} times: "
        f"pause of {statistics.median(pauses):.1f} s (median), {max(pauses):.1f} s (longest), "
        f"while the prompt takes {statistics.median(one['prompt_s']):.1f} s; the same text {one['same_text']} times"
    )
