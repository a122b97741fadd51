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


def install(folder, source, **environment):
    """Install ainet and nothing else into an empty prefix."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    command = [*pip, "install", "--no-deps", "--ignore-installed", "--prefix", str(folder), str(source)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """An empty prefix with nothing but ainet in it."""
    return install(tmp_path_factory.mktemp("prefix"), ROOT)


@pytest.fixture(scope="module")
def source_package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--target", str(folder / "hatchling"), "hatchling"], check=True, cwd=folder)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(folder / "hatchling")}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True)
    (package,) = folder.glob("ainet-*.tar.gz")
    return package


def callback_of(prefix):
    """Return which callback the ainet in a prefix uses."""
    (packages,) = prefix.glob("lib/python*/site-packages")
    program = "from ainet.stages.llama import native; print(native.LIBRARY.parent, native.native_library() is not None)"
    environment = os.environ | {"PYTHONPATH": str(packages)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, cwd=prefix
    )
    place, native = done.stdout.split()
    assert place.startswith(str(prefix))
    return {"True": "native", "False": "Python"}[native]


def test_an_install_compiles_the_native_callback(prefix):
    assert callback_of(prefix) == "native"
    (record,) = prefix.glob("lib/python*/site-packages/ainet-*.dist-info/WHEEL")
    assert "Tag: py3-none-any" not in record.read_text()


def test_the_source_package_compiles_it_as_well(source_package, tmp_path):
    assert callback_of(install(tmp_path, source_package)) == "native"


def test_without_a_compiler_ainet_installs_all_the_same(source_package, tmp_path):
    assert callback_of(install(tmp_path, source_package, CC="/nonexistent")) == "Python"
    (record,) = tmp_path.glob("lib/python*/site-packages/ainet-*.dist-info/WHEEL")
    assert "Tag: py3-none-any" in record.read_text()


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
