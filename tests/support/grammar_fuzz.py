"""Lets llama.cpp read random grammars that pass the limits, and draws with them. A process of its own: it may die."""

from __future__ import annotations

import json
import random
import re
import sys
import time

import numpy as np
from llama_cpp import llama_cpp as C  # noqa: N812

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
    *("::=", "-", "\r\n", "\0", '"\\q"', '"\\x4"', "[a\\-z]", "a_b", "\n| b", "(\n", "{3,2}"),
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


def may_be_empty(text: str) -> bool:
    """Tell whether a bracket may stand for nothing, and be repeated: only llama.cpp finds that out."""
    return re.search(r"\)[ \n]*[*+{]", text) is not None


def is_tame(text: str) -> bool:
    """Tell whether llama.cpp can be given a text that is refused: it ends, and reads all of it."""
    return not {"\0", "{500}", "{0,900}", "{3,2}", "{0,300}"} & {piece for piece in PIECES if piece in text}


def taken(text: str, vocabulary: Vocabulary) -> bool:
    sampler = C.llama_sampler_init_grammar(vocabulary.pointer, text.encode(), b"root")
    if sampler:
        C.llama_sampler_free(sampler)
    return bool(sampler)


def main(path: str, seed: int, count: int) -> None:
    read = slowest = 0.0
    others = []  # what one takes and the other does not
    with Llama(path, hidden_out=False, n_ctx=64) as llama:
        vocabulary = Vocabulary(llama)
        llama.decode(np.arange(10, 20, dtype=np.int32), [Segment(0, 0, 10, 1)])
        for n in range(count):
            draw = random.Random(seed + n)
            kind = draw.choice([soup, rules])
            text = kind(draw)
            begun = time.perf_counter()
            try:
                check_grammar(text)
                sampler = Sampler(SamplingParams(temperature=0, grammar=text), llama, vocabulary)
            except UsageError as exc:
                if "llama.cpp does not take" in exc.message and "<x>" not in text and not may_be_empty(text):
                    others.append(text)
                if "not valid GBNF" in exc.message and is_tame(text) and taken(text, vocabulary):
                    others.append(text)
                continue
            finally:
                slowest = max(slowest, time.perf_counter() - begun)
            read += 1
            try:
                # Rules that may be empty and begin with each other can keep llama.cpp busy for minutes.
                for position in range(2) if kind is soup else ():
                    if vocabulary.ends(sampler.sample(position)):
                        break
            except UsageError:
                pass
            sampler.close()
    sys.stdout.write(f"{json.dumps({'read': read, 'slowest': slowest, 'others': others})}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
