"""How many cheats a check finds, and how many honest answers it takes for one: at 50, 200 and 1,000 tokens.

Every set-up answers the same questions with the same seeds. The answers are then judged as a buyer judges them, by the
model that was named; the limits are those of `Calibration`, measured as a node measures itself. Parts of answers of so
many tokens are drawn again and again (bootstrap), and counted.

    python benchmarks/cheats.py MODEL.gguf [--questions N]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from llama_cpp import llama_cpp as C  # noqa: N812

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from support.cheats import without_layers

from ainet.api.generate import Message
from ainet.economy.checks import Calibration
from ainet.quantising.formats import FORMATS
from ainet.quantising.llama_quantise import quantise
from ainet.stages.llama.llama import Llama
from ainet.stages.llama.prompts import chat
from ainet.stages.llama.sampling import Sampler
from ainet.stages.llama.vocabulary import Vocabulary
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.segments import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESULTS = Path(__file__).parent / "results" / "cheats.json"
LENGTHS, DRAWS = (50, 200, 1000), 2000
N_CTX, CHUNK, JUDGED, TOKENS = 1024, 64, 16, 250
PREFACE = "I write for children of eight years who live in a village by a lake and keep goats. Use their words. "
QUESTIONS = [
    f"{verb} {topic}."
    for topic in ("the sea", "a bicycle", "the history of Rome", "how bread is baked", "stars", "a good garden")
    for verb in ("Explain", "Write a story about", "Give me ten facts about", "Write a letter to a friend about")
]


class Setup(NamedTuple):
    """Who answers: a file, threads, and what is done with the question and in between."""

    path: Path
    threads: int = 1
    flash: bool = True
    chunk: int = CHUNK
    #: Another file, and of how many tokens one is drawn from it.
    cheaper: Path | None = None
    every: int = 10
    #: Text before the question that is left out, although it was sent.
    dropped: str = ""


def tokens_of(llama: Llama, question: str) -> list[int]:
    """Return the tokens of a question."""
    return chat([Message("user", question)], Vocabulary(llama)).tokens.tolist()


def read(llama: Llama, tokens: Sequence[int], position: int, chunk: int) -> int:
    """Have a model read tokens, with logits after the last one; returns the next position."""
    for begin in range(0, len(tokens), chunk):
        part = np.array(tokens[begin : begin + chunk], np.int32)
        llama.decode(part, [Segment(0, position, len(part), int(begin + chunk >= len(tokens)))])
        position += len(part)
    return position


def answers(setup: Setup, questions: list[str]) -> list[tuple[list[int], list[int], bool]]:
    """Return the tokens of each question and of its answer, and whether the answer ended by itself."""
    flash = C.LLAMA_FLASH_ATTN_TYPE_ENABLED
    C.LLAMA_FLASH_ATTN_TYPE_ENABLED = flash if setup.flash else C.LLAMA_FLASH_ATTN_TYPE_DISABLED
    try:
        options = {"hidden_out": False, "n_ctx": N_CTX, "n_ubatch": CHUNK, "threads": setup.threads}
        models = [Llama(path, **options) for path in (setup.path, setup.cheaper) if path is not None]  # type: ignore[arg-type]
    finally:
        C.LLAMA_FLASH_ATTN_TYPE_ENABLED = flash
    found = []
    for seed, question in enumerate(questions):
        vocabularies = [Vocabulary(one) for one in models]
        prompt, seen = tokens_of(models[0], setup.dropped + question), tokens_of(models[0], question)
        sampling = SamplingParams(seed=seed)
        samplers = [Sampler(sampling, one, words) for one, words in zip(models, vocabularies, strict=True)]
        for one in models:
            one.clear()
            read(one, seen, 0, setup.chunk)
        said: list[int] = []
        ended = False
        while len(said) < TOKENS:
            which = 1 if len(models) > 1 and len(said) % setup.every == setup.every - 1 else 0
            token = samplers[which].sample(len(prompt) + len(said))
            if vocabularies[0].ends(token):
                ended = True
                break
            said.append(token)
            for one in models:
                read(one, [token], len(seen) + len(said) - 1, 1)
        for sampler in samplers:
            sampler.close()
        found.append((prompt, said, ended))
    for one in models:
        one.close()
    return found


def judged(llama: Llama, found: list[tuple[list[int], list[int], bool]]) -> list[list[float]]:
    """Return the margins of each answer, read in the rows in which a node reads them."""
    vocabulary = Vocabulary(llama)
    margins = []
    for seed, (prompt, said, _) in enumerate(found):
        sampler = Sampler(SamplingParams(seed=seed), llama, vocabulary)
        llama.clear()
        position = read(llama, prompt, 0, CHUNK)
        one = [sampler.margin(position, said[0])] if said else []
        for begin in range(0, len(said) - 1, JUDGED):
            part = np.array(said[begin : min(begin + JUDGED, len(said) - 1)], np.int32)
            llama.decode(part, [Segment(0, position, len(part), len(part))])
            one += [sampler.margin(position + i + 1, said[begin + i + 1], i) for i in range(len(part))]
            position += len(part)
        sampler.close()
        margins.append(one)
    return margins


def above(margins: list[list[float]], limit: Callable[[int], float]) -> dict[int, float]:
    """Return the part (%) of pieces of answers that a limit finds wrong, by their length."""
    chance = random.Random(1)
    found = {}
    blocks = [one[i : i + 25] for one in margins for i in range(0, len(one) - 24, 25)]
    for n in LENGTHS:
        wrong = sum(sum(map(sum, chance.choices(blocks, k=n // 25))) / n > limit(n) for _ in range(DRAWS))
        found[n] = round(100 * wrong / DRAWS, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--questions", type=int, default=16)
    options = parser.parse_args()
    questions = QUESTIONS[: options.questions]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def made(wanted: str) -> Path:
            path = folder / f"{wanted}.gguf"
            none = lambda *_: None  # noqa: E731
            quantise(options.model, path, FORMATS[wanted], threads=2, importance={}, notes={}, progress=none)
            return path

        three_out = without_layers(options.model, folder / "three.gguf", {10, 15, 20})
        setups = {
            "honest: one thread": Setup(options.model),
            "honest: two threads": Setup(options.model, threads=2),
            "honest: no flash attention": Setup(options.model, flash=False),
            "honest: questions read in other pieces": Setup(options.model, chunk=17),
            "honest: the same weights as F16": Setup(made("F16")),
            "Q4_0 in place of the named 4 bits": Setup(made("Q4_0")),
            "Q5_0": Setup(made("Q5_0")),
            "Q3_K_S": Setup(made("Q3_K_S")),
            "one layer left out": Setup(without_layers(options.model, folder / "one.gguf", {15})),
            "three layers left out": Setup(three_out),
            "every tenth token from three layers less": Setup(options.model, cheaper=three_out),
            "the first half of the prompt left out": Setup(options.model, dropped=PREFACE),
            "Q8_0 (no cheat: as good as the original)": Setup(made("Q8_0")),
        }
        with Llama(options.model, hidden_out=False, n_ctx=N_CTX, n_ubatch=CHUNK, n_outputs=JUDGED) as llama:
            everything = {}
            for what, setup in setups.items():
                begun = time.monotonic()
                found = answers(setup, questions)
                everything[what] = judged(llama, found)
                print(
                    f"{what}: {sum(len(said) for _, said, _ in found)} tokens, {time.monotonic() - begun:.0f} s",
                    flush=True,
                )
            honest = answers(Setup(options.model), questions)
            everything["the answer to another question"] = judged(
                llama, [(prompt, honest[i - 1][1], False) for i, (prompt, _, _) in enumerate(honest)]
            )
            own = answers(Setup(options.model), [f"{one} Be brief." for one in QUESTIONS[:12]])
            noise = [margin for one in judged(llama, own) for margin in one]
        measured = Calibration("here", noise)
        limits = {n: measured.limit(n) for n in LENGTHS}
        print(f"limits, measured on {len(noise)} tokens: { {n: round(limit, 3) for n, limit in limits.items()} }")
        for what, margins in everything.items():
            mean = sum(map(sum, margins)) / max(sum(map(len, margins)), 1)
            results[what] = {
                "mean": round(mean, 4),
                "found": above(margins, limits.__getitem__),
            }
            shown = "  ".join(f"{part:6.2f}" for part in results[what]["found"].values())
            print(f"{what:<45} {mean:.4f}   {shown}")
    results["limits"] = {str(n): round(limit, 4) for n, limit in limits.items()}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
