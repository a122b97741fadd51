"""What a pipeline does: SmolLM2-135M with one thread a stage, against llama.cpp alone and its RPC backend.

    python benchmarks/pipeline.py [PART …] [--rounds N] [--rpc-python PYTHON] [--output FILE]

Parts: decode (a), distance (b, f), draft-model (b), sessions (c), prompts (d), recovery (e), callback (g); all of them
if none is named. What was measured before of the other parts stays in the file. llama.cpp's RPC backend needs an
environment of its own, whose llama-cpp-python was built with ``CMAKE_ARGS=-DGGML_RPC=ON`` (`make benchmark` builds it).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import callback
import decode
import distance
import draft_model
import prompts
import recovery
import rpc
import sessions

PARTS = {
    "decode": (lambda options: decode.measure(options.rounds, options.rpc_python), decode.show),
    "distance": (lambda options: distance.measure(options.rounds, options.rpc_python), distance.show),
    "draft-model": (lambda options: draft_model.measure(min(options.rounds, 3)), draft_model.show),
    "sessions": (lambda options: sessions.measure(options.rounds), sessions.show),
    "prompts": (lambda options: prompts.measure(min(options.rounds, 3)), prompts.show),
    "callback": (lambda options: callback.measure(options.rounds), callback.show),
    "recovery": (lambda options: recovery.measure(kills=4 * options.rounds, hangs=options.rounds), recovery.show),
}
#: What is measured between network namespaces, over cables that delay.
OVER_CABLES = {"distance", "draft-model"}
TAP = Path("/dev/net/tun")


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[[], *PARTS], help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rpc-python", help="Python of an environment whose llama.cpp has the RPC backend")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/pipeline.json"))
    options = parser.parse_args()
    if options.rpc_python and not rpc.has_backend(options.rpc_python):
        print(f"{options.rpc_python} has no llama.cpp with the RPC backend: it is not compared with.", file=sys.stderr)
        options.rpc_python = None
    found = json.loads(options.output.read_text()) if options.output.exists() else {}
    for part in options.parts or PARTS:
        if part in OVER_CABLES and not (os.geteuid() == 0 and TAP.exists()):
            print(f"{part} is left out: it needs root, for network namespaces, and {TAP}.", file=sys.stderr)
            continue
        measure, show = PARTS[part]
        found[part] = measure(options)
        show(found[part])
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\nsaved as {options.output}")


if __name__ == "__main__":
    main()
