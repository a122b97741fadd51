"""What GPU there is, as JSON: a process of its own opens it, and lets it go."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from ainet.stages.llama.devices import backends, find_gpu
from ainet.stages.llama.speed import measure_speed

#: The type of the weights with which its speed is measured (Q4_0).
MEASURED = 2


def main() -> None:
    """Print the names of backends, and the GPU with the bytes of weights that it reads in a second."""
    found: dict[str, Any] = {"backends": backends(), "gpu": None}
    gpu = find_gpu()
    if gpu is not None:
        found["gpu"] = {key: value for key, value in gpu._asdict().items() if key != "handle"}
        with tempfile.TemporaryDirectory() as folder:
            found["gpu"]["speed"] = measure_speed(MEASURED, 1, Path(folder), gpu=True)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
