"""(b) A draft model on the device that asks, for an ordinary answer of three devices: side by side, and 20 ms apart.

The draft model is a copy of the model itself, since there is no smaller one with the same tokens. Its guesses come
true, but each of them takes as long as a token of all three stages, on the same two processors. Side by side nothing is
to be gained by that, and it must cost little.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distance import NAMES, SETTINGS
from rpc import model_path
from support.lan import lan_nodes, wait_for

if TYPE_CHECKING:
    from support.lan import LanNodes

DISTANCES = (0.0, 0.020)  # s, one way
N_TOKENS = 128
QUESTION = "Tell me about rain."
#: What each variant is, as settings of the device that asks.
VARIANTS: dict[str, dict[str, Any]] = {
    "no drafts": {"speculate": False},
    "looked up": {"speculate": True, "draft_model": "none"},
    "draft model": {"speculate": True, "draft_model": "twin"},
}


def ask(nodes: LanNodes) -> tuple[float, list[int]]:
    """Return tokens a second of an answer, and its tokens."""
    options = {"temperature": 0.0, "max_tokens": N_TOKENS, "stages": len(NAMES)}
    answer = nodes.client(NAMES[0], lambda node: node.ask(QUESTION, **options))
    return answer.timings.tokens_per_s, answer.tokens


def measure(rounds: int) -> dict[str, Any]:
    """Measure every variant at both distances."""
    found: dict[str, Any] = {"rounds": rounds}
    for distance in DISTANCES:
        rates, texts = {}, []
        for name, options in VARIANTS.items():
            with tempfile.TemporaryDirectory() as folder:
                twin = Path(folder) / "twin.gguf"
                twin.write_bytes(model_path().read_bytes().replace(b"general.name", b"general.nama", 1))
                own = {NAMES[0]: options | {"model_paths": [str(twin)]}}
                with lan_nodes(Path(folder), *NAMES, cable={"apart": distance}, own=own, **SETTINGS) as nodes:
                    wait_for(lambda nodes=nodes: all(nodes.reached(NAMES[0], other) != "no" for other in NAMES[1:]), 60)
                    ask(nodes)  # loads the pipeline, then the draft model
                    if options.get("draft_model") == "twin":
                        wait_for(lambda nodes=nodes: "twin guesses what smollm2 will say" in nodes.logs(), 60)
                    ask(nodes)
                    answers = [ask(nodes) for _ in range(rounds)]
            rates[name] = statistics.median(rate for rate, _ in answers)
            texts += [tokens for _, tokens in answers]
        print(f"{1000 * distance:.0f} ms: {rates}", file=sys.stderr, flush=True)
        same = all(text == texts[0] for text in texts)
        found[f"{1000 * distance:.0f} ms"] = {"tokens_per_s": rates, "same_text": same}
    return found


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    heading = "".join(f"{name:>14}" for name in VARIANTS)
    print(f"\n{'tokens/s':<10}{heading}{'model : none':>14}{'same text':>11}")
    for distance, row in found.items():
        if distance != "rounds":
            rates = row["tokens_per_s"]
            cells = "".join(f"{rates[name]:>14.1f}" for name in VARIANTS)
            print(f"{distance:<10}{cells}{rates['draft model'] / rates['no drafts']:>14.2f}{row['same_text']!s:>11}")
