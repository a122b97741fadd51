"""Lets llama.cpp read random grammars that pass the limits, and draws with them. A process of its own: it may die."""

from __future__ import annotations

import random
import sys
import time

import numpy as np

from ainet.errors import UsageError
from ainet.stages.llama.llama import Llama
from ainet.stages.llama.sampling import Sampler
from ainet.stages.llama.vocabulary import Vocabulary
from ainet.stages.protocol.grammar import check_grammar
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.segments import Segment

PIECES = [
    *('"a"', '"ab"', '""', '"\\""', '"\\x41"', "[a-z]", "[^a]", "[]", "[z-a]", "[]]", "[^]", "[\\]]", ".", "a", "b"),
    *("root", "(", ")", "(", ")", "|", "*", "+", "?", "{2}", "{0,3}", "{1,}", "{0}", "{500}", "{0,900}"),
    *("<[1]>", "!<[2]>", "<x>", "\n", " ", "#c\n", "\na ::=", "\nb ::=", "\nroot ::=", "é", '"', "[", "{", "\\"),
    *("::=", "-", "\r\n", "\0"),
]


def soup(draw: random.Random) -> str:
    text = "root ::= " + " ".join(draw.choices(PIECES, k=draw.randint(1, 25)))
    return text + '\na ::= "a" b | "b"\nb ::= | [a-c]'


def expression(draw: random.Random, depth: int) -> str:
    kind = draw.random()
    if depth == 0 or kind < 0.4:
        return draw.choice(['"a"', '"bc"', "[a-e]", "[^b]", '""', *(f"r{n}" for n in range(6))])
    if kind < 0.6:
        return " ".join(expression(draw, depth - 1) for _ in range(draw.randint(1, 3)))
    if kind < 0.8:
        return "(" + " | ".join(expression(draw, depth - 1) for _ in range(draw.randint(1, 3))) + ")"
    return f"({expression(draw, depth - 1)}){draw.choice(['*', '+', '?', '{2}', '{0,4}', '{1,}', '{0,300}'])}"


def rules(draw: random.Random) -> str:
    return "root ::= r0\n" + "\n".join(f"r{n} ::= {expression(draw, 3)}" for n in range(6))


def main(path: str, seed: int, count: int) -> None:
    read = slowest = 0.0
    with Llama(path, hidden_out=False, n_ctx=64) as llama:
        vocabulary = Vocabulary(llama)
        llama.decode(np.arange(10, 20, dtype=np.int32), [Segment(0, 0, 10, 1)])
        for n in range(count):
            draw = random.Random(seed + n)
            text = draw.choice([soup, rules])(draw)
            begun = time.perf_counter()
            try:
                check_grammar(text)
                sampler = Sampler(SamplingParams(temperature=0, grammar=text), llama, vocabulary)
            except UsageError:
                continue
            finally:
                slowest = max(slowest, time.perf_counter() - begun)
            read += 1
            try:
                for position in range(2):
                    if vocabulary.ends(sampler.sample(position)):
                        break
            except UsageError:
                pass
            sampler.close()
    sys.stdout.write(f"{read:.0f} {slowest:.3f}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
