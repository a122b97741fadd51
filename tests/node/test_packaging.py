"""What `pip install .` puts where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ainet

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """An empty prefix with nothing but ainet in it."""
    folder = tmp_path_factory.mktemp("prefix")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    command = [*pip, "install", "--no-deps", "--ignore-installed", "--prefix", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_an_install_brings_the_extension_the_kernel_and_the_command(prefix):
    spec = json.loads((prefix / "share/jupyter/kernels/ainet/kernel.json").read_text())
    assert spec["argv"][1:3] == ["-m", "ainet_kernel"]
    enabled = json.loads((prefix / "etc/jupyter/jupyter_server_config.d/ainet.json").read_text())
    assert enabled["ServerApp"]["jpserver_extensions"] == {"ainet": True}
    (packages,) = prefix.glob("lib/python*/site-packages")
    assert {"ainet", "ainet_kernel", "ainet_widgets"} <= {path.name for path in packages.iterdir()}
    assert not list(packages.rglob("*.gguf"))


def test_the_installed_command_runs(prefix):
    (packages,) = prefix.glob("lib/python*/site-packages")
    environment = os.environ | {"PYTHONPATH": str(packages)}
    command = [str(prefix / "bin/ainet"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=prefix)
    assert done.stdout.strip() == f"ainet {ainet.__version__}"
