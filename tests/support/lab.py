"""JupyterLab with a node in its server, and a browser to drive it as a user would."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import psutil

from support.nodes import alive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHROMIUM = "/usr/bin/chromium"
OPTIONS = (
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TOKEN = "a-token-of-this-test"


@contextlib.contextmanager
def running_lab(folder: Path, *options: str) -> Iterator[str]:
    """Run JupyterLab in `folder`; its server is the node on ``folder/node``. Gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    command += ["--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", *options]
    environment = os.environ | {"AINET_DATA_DIR": str(folder / "node"), "JUPYTER_TOKEN": TOKEN}
    url = f"http://127.0.0.1:{port}"
    with (folder / "lab.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
    family = []
    try:
        deadline = time.monotonic() + 90
        while not _ready(url):
            assert time.monotonic() < deadline, (folder / "lab.log").read_text()
            assert process.poll() is None, (folder / "lab.log").read_text()
            time.sleep(0.1)
        yield url
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    finally:
        process.terminate()
        process.wait(60)
    deadline = time.monotonic() + 20
    while alive(family):
        assert time.monotonic() < deadline, alive(family)
        time.sleep(0.1)


def _ready(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/ainet/api/status", headers={"Authorization": f"token {TOKEN}"}, timeout=5)
    except httpx.TransportError:
        return False
    return answer.is_success
