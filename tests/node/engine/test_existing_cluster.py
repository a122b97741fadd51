"""The engine on existing Dask clusters: real ones, started by hand with ``dask scheduler`` and ``dask worker``."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import logging
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.processes import python, until

from ainet.config import AinetConfig
from ainet.engine.certificates import ClusterCA
from ainet.engine.engine import Engine
from ainet.errors import NotEnough, PeerUnreachable, UsageError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

LOG = logging.getLogger("ainet.tests")


def make(data_dir: Path, **settings: Any) -> Engine:
    return Engine(AinetConfig(data_dir=str(data_dir), **settings), data_dir, LOG)


async def pids(engine: Engine) -> list[int]:
    """Return the pid that a task sees, for each worker."""
    tasks = [
        engine.client.submit(os.getpid, workers=[worker.address], allow_other_workers=False, pure=False)
        for worker in engine.workers()
    ]
    return list(await asyncio.gather(*tasks))


@contextlib.contextmanager
def existing_cluster(tmp_path: Path, protocol: str, *tls: str, port: int = 0) -> Iterator[tuple[str, list[Any]]]:
    """Start ``dask scheduler`` and two ``dask worker`` by hand."""
    (tmp_path / "address").unlink(missing_ok=True)
    options = ("--host", "127.0.0.1", "--protocol", protocol, "--no-dashboard", *tls)
    with contextlib.ExitStack() as stack:

        def dask_command(*arguments: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(python("-m", "dask", *arguments, log=tmp_path / f"{arguments[-1]}.log"))

        scheduler = dask_command(
            "scheduler", *options, "--port", str(port), "--scheduler-file", str(tmp_path / "address")
        )
        deadline = time.monotonic() + 30
        # It is made, and then written: a worker that reads it in between ends.
        while not (path := tmp_path / "address").exists() or not path.read_text().rstrip().endswith("}"):
            assert time.monotonic() < deadline
            assert scheduler.poll() is None
            time.sleep(0.01)
        workers = [
            dask_command("worker", *options, "--scheduler-file", str(tmp_path / "address"), "--nthreads", "1",
                         "--local-directory", str(tmp_path), "--name", name)
            for name in ("anna", "bert")
        ]  # fmt: skip
        yield json.loads((tmp_path / "address").read_text())["address"], [scheduler, *workers]


async def running(tmp_path: Path, n: int, **settings: Any) -> Engine:
    """Return an engine connected to an existing cluster as soon as `n` workers are there."""
    engine = make(tmp_path, **settings)
    await engine.start()
    await until(lambda: len(engine.workers()) == n)
    return engine


async def test_an_existing_cluster_over_tcp_is_used_and_outlives_the_node(tmp_path: Path) -> None:
    with existing_cluster(tmp_path, "tcp") as (address, processes):
        engine = await running(tmp_path, 2, dask_scheduler=address)
        assert not engine.own
        assert engine.scheduler_pid is None
        workers = await engine.ensure_workers(2)
        assert {worker.name for worker in workers} == {"anna", "bert"}
        assert await pids(engine) == [worker.pid for worker in workers]
        actor = await engine.actor(collections.deque, [7], address=workers[1].address)
        assert await actor.count(7) == 1
        with pytest.raises(NotEnough, match=rf"at {address} has 2 worker\(s\), and 3 are needed. Start more workers"):
            await engine.ensure_workers(3)
        await engine.retire(workers[0].address)
        assert await engine.ensure_workers(2) == workers

        lost: list[str] = []
        engine.on_worker_lost(lost.append)
        os.kill(workers[0].pid, signal.SIGKILL)
        await until(lambda: lost == [workers[0].address], 5)
        await until(lambda: len(engine.workers()) == 2)

        await engine.stop()
        assert all(process.poll() is None for process in processes)


async def test_an_existing_cluster_over_tls_is_used(tmp_path: Path) -> None:
    ca = ClusterCA()
    credentials, _ = ca.issue("by hand")
    files = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")}
    for name in files:
        (tmp_path / f"{name}.pem").write_text(getattr(credentials, name))
    tls = ("--tls-ca-file", files["ca"], "--tls-cert", files["cert"], "--tls-key", files["key"])
    security = {"tls_ca_file": files["ca"], "tls_client_cert": files["cert"], "tls_client_key": files["key"]}
    with existing_cluster(tmp_path, "tls", *tls) as (address, _):
        engine = await running(tmp_path, 2, dask_scheduler=address, dask_security=security)
        assert sorted(await pids(engine)) == sorted(worker.pid for worker in engine.workers())
        await engine.stop()

        stranger, _ = ClusterCA().issue("stranger")
        for name in files:
            (tmp_path / f"{name}.pem").write_text(getattr(stranger, name))
        begin = time.monotonic()
        with pytest.raises(PeerUnreachable, match=f"The Dask scheduler at {address} does not answer"):
            await make(tmp_path, dask_scheduler=address, dask_security=security).start()
        assert time.monotonic() - begin < 10


async def test_a_lost_scheduler_loses_every_worker_and_one_that_is_back_is_used(tmp_path: Path) -> None:
    with existing_cluster(tmp_path, "tcp") as (address, processes):
        engine = await running(tmp_path, 2, dask_scheduler=address)
        lost: list[str] = []
        engine.on_worker_lost(lost.append)
        processes[0].kill()
        await until(lambda: len(lost) == 2, 5)
    with existing_cluster(tmp_path, "tcp", port=int(address.rpartition(":")[2])):
        with contextlib.suppress(NotEnough):  # its workers may still be on their way
            await engine.ensure_workers(1)
        await until(lambda: len(engine.workers()) == 2)
        assert sorted(await pids(engine)) == sorted(worker.pid for worker in engine.workers())
        await engine.stop()


async def test_a_scheduler_beyond_this_device_must_be_encrypted(tmp_path: Path) -> None:
    config = AinetConfig(data_dir=str(tmp_path), dask_scheduler="tcp://192.0.2.1:8786")
    with pytest.raises(UsageError, match=r"not encrypted\. Beyond this device a tls:// address is needed"):
        await Engine(config, tmp_path, LOG).start()


async def test_a_wrong_address_is_a_clear_error_within_seconds(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but nobody listens
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        engine = make(tmp_path, dask_scheduler=address)
        begin = time.monotonic()
        with pytest.raises(PeerUnreachable, match=f"The Dask scheduler at {address} does not answer.*dask_security"):
            await engine.start()
        assert time.monotonic() - begin < 10
        await engine.stop()


@pytest.mark.parametrize(
    ("security", "message"),
    [
        ({}, "A tls:// scheduler needs `dask_security` with tls_ca_file and tls_client_cert."),
        ({"tls_ca": "x"}, "has no entry 'tls_ca'; it takes tls_ca_file, tls_client_cert, tls_client_key."),
        (
            {"tls_ca_file": "missing.pem"},
            "The file missing.pem, named by `dask_security` as tls_ca_file, does not exist.",
        ),
        (
            {"tls_ca_file": __file__, "tls_client_cert": __file__},
            "The TLS files named by `dask_security` cannot be used",
        ),
    ],
)
async def test_unusable_tls_files_are_refused_in_words(tmp_path: Path, security: dict[str, str], message: str) -> None:
    engine = make(tmp_path, dask_scheduler="tls://127.0.0.1:1", dask_security=security)
    with pytest.raises(UsageError) as caught:
        await engine.start()
    assert message in caught.value.message
    await engine.stop()
