"""A node whose engine is a Dask deployment that was started by hand."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

import pytest
from support.smollm2 import CHUNK, N_CTX, one_process

from ainet.client.client import NodeClient
from ainet.config import CONFIG_FILE
from ainet.daemon import daemon
from ainet.errors import NotEnough
from ainet.stages.protocol.sampling_params import SamplingParams


@pytest.fixture
def scheduler(tmp_path):
    """`dask scheduler` and two times `dask worker`; gives the scheduler's address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    options = ["--host", "127.0.0.1", "--no-dashboard"]
    processes = []
    with (tmp_path / "dask.log").open("wb") as log:
        try:
            command = [*dask, "scheduler", "--port", str(port), *options]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path))
            for _ in range(2):
                command = [*dask, "worker", address, "--nthreads", "1", *options]
                processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path))
            deadline = time.monotonic() + 60
            while (tmp_path / "dask.log").read_text().count("Registered to:") < 2:
                assert time.monotonic() < deadline, (tmp_path / "dask.log").read_text()
                time.sleep(0.05)
            yield address
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                process.wait(30)


def test_stages_run_on_the_workers_that_are_there(scheduler, jupyter_dirs, tmp_path, smollm2_path):
    data_dir = tmp_path / "node"
    data_dir.mkdir(mode=0o700)
    values = {"dask_scheduler": scheduler, "stage_threads": 1, "context_window": N_CTX, "chunk": CHUNK}
    (data_dir / CONFIG_FILE).write_text(json.dumps({"AinetConfig": values}))
    running, _ = daemon.up(data_dir, {"name": "hpc"})
    try:
        with NodeClient(running.url, running.token) as client:
            answer = client.ask("Tell me about rain.", stages=2, temperature=0.0, max_tokens=24)
            expected = one_process(smollm2_path, "Tell me about rain.", SamplingParams(temperature=0), 24)
            assert (answer.tokens, answer.text) == expected
            assert len({part.pid for part in answer.placement}) == 2
            with pytest.raises(NotEnough, match="3 stages were asked for, but the devices have only 2 workers"):
                client.ask("Tell me about rain.", stages=3)
    finally:
        daemon.down(data_dir)
