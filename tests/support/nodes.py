"""A real node for tests: a headless server in processes of its own, on a data directory of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ainet.daemon import daemon, runtime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ainet.daemon.runtime import Runtime

#: Small and quick: one worker with one thread.
OPTIONS = {"threads": 1, "memory": "2GB"}


@pytest.fixture
def own_jupyter(tmp_path, monkeypatch) -> None:
    """Jupyter's own files in a folder of the test, and a server in the test's process."""
    monkeypatch.chdir(tmp_path)  # jupyter-collaboration keeps a file where it is started
    for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
        monkeypatch.setenv(f"JUPYTER_{name}", str(tmp_path / name.lower()))
        (tmp_path / name.lower()).mkdir()
    # The extension sets it for the kernels of its server.
    monkeypatch.setenv("AINET_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def jupyter_dirs(tmp_path_factory) -> Iterator[Path]:
    """Jupyter's own files in a folder of the test session."""
    folder = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
            patch.setenv(f"JUPYTER_{name}", str(folder / name.lower()))
        yield folder


@pytest.fixture(scope="session")
def node_dir(jupyter_dirs, tmp_path_factory) -> Iterator[Path]:
    """The data directory of a node that runs during the whole test session."""
    data_dir = tmp_path_factory.mktemp("node")
    daemon.up(data_dir, {"name": "tester", **OPTIONS})
    family = family_of(runtime.find(data_dir))
    yield data_dir
    daemon.down(data_dir)
    assert not alive(family)


def family_of(running: Runtime) -> list[psutil.Process]:
    """Return the processes of a node."""
    server = psutil.Process(running.pid)
    return [server, *server.children(recursive=True)]


def alive(family: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run."""
    found = []
    for process in family:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def ainet(*arguments: str, data_dir: Path | None = None, **given: Any) -> subprocess.CompletedProcess[str]:
    """Run the ``ainet`` command."""
    environment = os.environ | ({"AINET_DATA_DIR": str(data_dir)} if data_dir else {}) | given.pop("env", {})
    return subprocess.run(
        [sys.executable, "-m", "ainet", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
        stdin=given.pop("stdin", subprocess.DEVNULL) if "input" not in given else None,
        **given,
    )


def answer_of(done: subprocess.CompletedProcess[str]) -> Any:
    """Return the JSON that a command printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
