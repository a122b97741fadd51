from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "ainet_widgets",
    "cryptography",
    "dask",
    "distributed",
    "gguf",
    "httpx",
    "ipywidgets",
    "jupyter_server",
    "lancedb",
    "llama_cpp",
    "numpy",
    "tornado",
)

LOAD = """
import sys, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before = set(sys.modules)
begun = time.perf_counter()
shell.run_line_magic("load_ext", "ainet")
print(time.perf_counter() - begun)
print(*(set(sys.modules) - before))
assert "ainet" in shell.magics_manager.magics["cell"]
"""


def run(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_importing_ainet_imports_nothing_heavy():
    (modules,) = run("import sys; before = set(sys.modules); import ainet; print(*(set(sys.modules) - before))")
    assert not {name.split(".")[0] for name in modules.split()} & {*HEAVY, "IPython", "traitlets"}


def test_loading_the_magics_imports_nothing_heavy(record_property):
    seconds, modules = run(LOAD)
    record_property("load_ext_seconds", float(seconds))
    sys.stdout.write(f"%load_ext ainet: {float(seconds):.3f} s\n")
    assert not {name.split(".")[0] for name in modules.split()} & set(HEAVY)


@pytest.mark.parametrize("arguments", [["--version"], ["ask", "--help"]])
def test_the_command_starts_without_anything_heavy(arguments):
    program = f"import sys; from ainet.cli.main import main; main({arguments!r}); print(*sys.modules)"
    assert not {name.split(".")[0] for name in run(program)[-1].split()} & set(HEAVY)
