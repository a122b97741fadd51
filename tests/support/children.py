"""Modules of the tests that run in a process of their own, which llama.cpp may end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def child(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the tests in a process of its own, which llama.cpp may end."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "GGML_NO_BACKTRACE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
