"""What formats cost and gain: size, loss and speed of SmolLM2-135M in each, and how well the speed was predicted.

    python benchmarks/quantise.py [--rounds N] [--chunks N] [--output FILE]

The source has 4 bits already (Q4_1), so that no format can be better; losses are those against it, on this project's
own documentation. Speeds are those of one stage with one thread, the variants in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desk import desk

from ainet.api import quantise

if TYPE_CHECKING:
    from ainet.api.quantise import QuantiseState
    from ainet.client.client import NodeClient

MODEL = "smollm2"
FORMATS = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_NL", "Q4_0", "Q3_K_M", "Q2_K"]
#: Formats that are made once more with an importance matrix.
IMPORTANCE = ["IQ4_NL", "Q4_0", "Q3_K_M", "Q2_K", "IQ2_XXS"]
PROMPT = "The quick brown fox jumps over the lazy dog and then runs away"
N_TOKENS = 64


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/quantise.json"))
    options = parser.parse_args()
    root = Path(__file__).parents[1]
    text = "\n".join(path.read_text() for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))])
    with desk(kept_tokens=0, speculate=False, sessions=1) as client:
        found = measure(client, text, options.rounds, options.chunks)
    show(found)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\nsaved as {options.output}")


def measure(client: NodeClient, text: str, rounds: int, chunks: int) -> dict[str, dict[str, Any]]:
    """Return what was measured by the names of models."""
    advice = client.call(quantise.formats, MODEL, None, [*FORMATS, "IQ2_XXS"])
    predicted = {one.format: one.seconds for one in advice.formats}
    found: dict[str, dict[str, Any]] = {}
    for formats, importance in ((FORMATS, False), (IMPORTANCE, True)):
        begin = time.perf_counter()
        state = _made(client, formats, text, chunks, importance=importance)
        print(f"{len(formats)} formats in {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        lost = {one.name: one for one in state.quality}
        for made in state.made:
            quality = lost[made.name]
            found[made.name] = {
                "format": made.format,
                "importance": made.importance,
                "size": made.size,
                "bits": made.bits,
                "divergence": quality.divergence,
                "error": quality.error,
                "worst": quality.worst,
                "same_top": quality.same_top,
                "rows": quality.rows,
                "predicted": 1 / (predicted[made.format] or 1),
            }
    source = advice.formats[0]
    found[MODEL] = {
        "format": source.format,
        "size": source.size,
        "bits": source.bits,
        "divergence": 0.0,
        "same_top": 1.0,
    }
    found[MODEL]["predicted"] = 1 / (source.seconds or 1)
    speeds: dict[str, list[float]] = {}
    for run in range(rounds + 1):
        print(f"round {run}/{rounds}", file=sys.stderr, flush=True)
        for name in found:
            answer = client.ask(PROMPT, raw=True, temperature=0.0, max_tokens=N_TOKENS, model=name)
            if run:  # the first one loads it
                speeds.setdefault(name, []).append(answer.timings.tokens_per_s)
    for name, values in speeds.items():
        found[name]["tokens_per_s"] = statistics.median(values)
        found[name]["ratio"] = statistics.median(a / b for a, b in zip(values, speeds[MODEL], strict=True))
    return found


def _made(client: NodeClient, formats: list[str], text: str, chunks: int, *, importance: bool) -> QuantiseState:
    state = client.call(
        quantise.quantise, model=MODEL, formats=formats, text=text, chunks=chunks, importance=importance
    )
    while state.running:
        time.sleep(0.3)
        state = client.call(quantise.quantisation)
    if state.failed is not None:
        raise RuntimeError(state.failed["message"])
    return state


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print the table."""
    print(
        f"\n{'model':<26}{'MB':>7}{'bits':>6}{'KL divergence':>20}{'worst 1 %':>11}{'same top':>10}"
        f"{'tokens/s':>10}{'ratio':>7}{'predicted':>11}"
    )
    for name, row in found.items():
        loss = f"{row['divergence']:.5f} ± {row['error']:.5f}" if "error" in row else "(the source)"
        worst = f"{row['worst']:.3f}" if "worst" in row else ""
        print(
            f"{name:<26}{row['size'] / 1e6:>7.1f}{row['bits']:>6.2f}{loss:>20}{worst:>11}"
            f"{100 * row['same_top']:>8.1f} %{row['tokens_per_s']:>10.1f}{row['ratio']:>7.2f}{row['predicted']:>11.1f}"
        )


if __name__ == "__main__":
    main()
