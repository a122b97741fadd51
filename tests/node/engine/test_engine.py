"""The engine on a real Dask cluster of its own."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import logging
import os
import signal
import socket
import ssl
import stat
from typing import TYPE_CHECKING, Any

import dask
import msgspec
import psutil
import pytest
from distributed import Client
from support.processes import family, line, living, ports, python, until

from ainet.config import AinetConfig
from ainet.engine.certificates import ClusterCA
from ainet.engine.engine import Engine
from ainet.engine.forks import IS_POSSIBLE
from ainet.errors import AinetError, PeerUnreachable
from ainet.resources.monitor import pss

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator
    from pathlib import Path

LOG = logging.getLogger("ainet.tests")

#: A "server" that owns an engine; it prints pids, and then waits for the word to stop.
SERVER = """
import asyncio, json, logging, pathlib, sys
from ainet.config import AinetConfig
from ainet.engine.engine import Engine

async def main():
    data_dir = pathlib.Path(sys.argv[1])
    engine = Engine(AinetConfig(data_dir=str(data_dir)), data_dir, logging.getLogger("node"))
    async with engine:
        for _ in sys.argv[2:]:
            lost = asyncio.Event()
            engine.on_worker_lost(lambda address: lost.set())
            import os, signal
            os.kill(engine.scheduler_pid, signal.SIGKILL)
            await lost.wait()
            await engine.ensure_workers(2)
        print(json.dumps([engine.scheduler_pid, *(worker.pid for worker in engine.workers())]), flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""

#: A program with a process of its own, and a thread that the event loop waits for when it closes.
STUCK = """
import asyncio, subprocess, threading
from ainet.engine.program import Program, main

class Stuck(Program):
    async def start(self):
        self.process = subprocess.Popen(["sleep", "600"])
        asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
        return "stuck"

main(Stuck)
"""


def send(program: subprocess.Popen[bytes], command: dict[str, Any]) -> None:
    assert program.stdin is not None
    program.stdin.write(json.dumps(command).encode() + b"\n")
    program.stdin.flush()


def hang_up(program: subprocess.Popen[bytes]) -> None:
    """Let the program's standard input end, as when its parent ends."""
    assert program.stdin is not None
    program.stdin.close()
    program.stdin = None


def make(data_dir: Path, **settings: Any) -> Engine:
    return Engine(AinetConfig(data_dir=str(data_dir), **settings), data_dir, LOG)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with make(tmp_path) as engine:
        yield engine


async def pids(engine: Engine) -> list[int]:
    """Return the pid that a task sees, for each worker."""
    tasks = [
        engine.client.submit(os.getpid, workers=[worker.address], allow_other_workers=False, pure=False)
        for worker in engine.workers()
    ]
    return list(await asyncio.gather(*tasks))


async def test_grows_to_three_workers_and_a_task_runs_on_each(engine: Engine) -> None:
    assert len(engine.workers()) == 1
    workers = await engine.ensure_workers(3)
    assert [worker.name for worker in workers] == ["worker-1", "worker-2", "worker-3"]
    assert await pids(engine) == [worker.pid for worker in workers]
    assert len({worker.pid for worker in workers} | {engine.scheduler_pid, os.getpid()}) == 5
    assert await engine.ensure_workers(2) == workers


async def test_engine_and_worker_are_lean(engine: Engine) -> None:
    assert engine.scheduler_pid is not None
    used = sum(pss(process.pid) for process in family(engine.scheduler_pid))
    assert 0 < used < 250_000_000
    [worker] = engine.workers()
    settings = await engine.client.run(dask.config.get, "distributed.worker.profile.enabled")
    assert settings == {worker.address: False}


async def test_an_actor_lives_on_the_worker_that_was_named(engine: Engine) -> None:
    [_, second] = await engine.ensure_workers(2)
    actor = await engine.actor(collections.deque, [1, 2], address=second.address)
    await actor.append(2)
    assert await actor.count(2) == 2
    identity = await engine.client.scheduler.identity(n_workers=-1)
    assert identity["workers"][second.address]["memory_limit"] == 0


async def test_what_an_actor_raises_while_it_is_made_arrives(engine: Engine) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        await engine.actor(int, "no number", address=engine.workers()[0].address)


async def test_two_engines_in_one_process_keep_apart(engine: Engine, tmp_path: Path) -> None:
    second_dir = tmp_path / "second"
    second_dir.mkdir()
    async with make(second_dir) as other:
        one = await engine.actor(collections.deque, [1], address=engine.workers()[0].address)
        two = await other.actor(collections.deque, [2, 2], address=other.workers()[0].address)
        assert (await one.count(1), await two.count(2)) == (1, 2)
        with pytest.raises(ValueError, match="No clients found"):
            Client.current()


async def test_workers_get_one_blas_thread_and_no_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUPYTER_TOKEN", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1")
    async with make(tmp_path) as engine:
        [worker] = engine.workers()
        seen = {}
        for name in ("JUPYTER_TOKEN", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH"):
            seen[name] = (await engine.client.run(os.getenv, name))[worker.address]
    assert seen == {"JUPYTER_TOKEN": None, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": None}


async def test_only_this_nodes_own_certificate_opens_the_cluster(engine: Engine) -> None:
    address = engine.client.scheduler.address
    stranger, _ = ClusterCA().issue("engine")
    with pytest.raises(OSError, match="TLS certificate does not match"):
        await Client(address, security=stranger.security(), asynchronous=True, set_as_default=False, timeout=5)
    plain = address.replace("tls://", "tcp://")  # Dask keeps trying until its time is over
    with pytest.raises(OSError, match="tcp://"):
        await Client(plain, asynchronous=True, set_as_default=False, timeout=1)


async def test_nothing_answers_without_a_certificate(engine: Engine) -> None:
    await engine.ensure_workers(2)
    assert engine.scheduler_pid is not None
    addresses = ports(family(engine.scheduler_pid))
    assert len(addresses) == 5  # the scheduler, two Nannies, two workers
    assert {host for host, _ in addresses} == {"127.0.0.1"}
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def ask(address: tuple[str, int], *, tls: bool) -> bytes:
        with socket.create_connection(address, timeout=5) as plain, contextlib.ExitStack() as stack:
            connection = stack.enter_context(context.wrap_socket(plain)) if tls else plain
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return connection.recv(100)

    for address in addresses:
        # Without TLS the server may send a TLS alert (21), never an answer.
        with contextlib.suppress(ConnectionError):
            assert (await asyncio.to_thread(ask, address, tls=False))[:1] in (b"", b"\x15")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(ask, address, tls=True)


async def test_a_killed_worker_is_reported_at_once_and_comes_back(engine: Engine) -> None:
    lost: list[str] = []
    engine.on_worker_lost(lost.append)
    before = await engine.ensure_workers(2)
    os.kill(before[0].pid, signal.SIGKILL)
    await until(lambda: lost, 2)
    assert lost == [before[0].address]
    await until(lambda: len(engine.workers()) == 2)
    assert {worker.pid for worker in engine.workers()} & {worker.pid for worker in before} == {before[1].pid}
    assert sorted(await pids(engine)) == sorted(worker.pid for worker in engine.workers())


@pytest.mark.skipif(not IS_POSSIBLE, reason="workers are forks on Linux only")
async def test_workers_are_forks_that_share_what_was_imported_and_come_back_without_their_server(
    engine: Engine,
) -> None:
    workers = await engine.ensure_workers(2)
    (server,) = {psutil.Process(worker.pid).ppid() for worker in workers}
    assert psutil.Process(server).ppid() == engine.scheduler_pid
    for worker in workers:
        assert pss(worker.pid) < 0.7 * psutil.Process(worker.pid).memory_info().rss
    lost: set[str] = set()
    engine.on_worker_lost(lost.add)
    os.kill(server, signal.SIGKILL)
    await until(lambda: lost == {worker.address for worker in workers})
    assert len(await engine.ensure_workers(3)) == 3
    await until(
        lambda: (
            not living(
                [psutil.Process(pid) for pid in (server, *(one.pid for one in workers)) if psutil.pid_exists(pid)]
            )
        )
    )


async def test_a_retired_worker_ends_and_is_not_reported(engine: Engine) -> None:
    lost: list[str] = []
    engine.on_worker_lost(lost.append)
    first, second = await engine.ensure_workers(2)
    process = psutil.Process(first.pid)
    await engine.retire(first.address)
    await until(lambda: not living([process]), 5)
    assert engine.workers() == [second]
    assert len(await engine.ensure_workers(2)) == 2
    assert lost == []


async def test_a_killed_engine_loses_every_worker_and_the_next_question_starts_it_again(engine: Engine) -> None:
    lost: list[str] = []
    engine.on_worker_lost(lost.append)
    workers = await engine.ensure_workers(2)
    assert engine.scheduler_pid is not None
    processes = family(engine.scheduler_pid)
    os.kill(engine.scheduler_pid, signal.SIGKILL)
    await until(lambda: len(lost) == 2, 5)
    assert sorted(lost) == sorted(worker.address for worker in workers)
    assert engine.workers() == []
    await until(lambda: not living(processes), 10)
    assert len(await engine.ensure_workers(2)) == 2
    assert len(await pids(engine)) == 2


async def test_stop_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    async with make(tmp_path) as engine:
        await engine.ensure_workers(2)
        assert engine.scheduler_pid is not None
        processes = family(engine.scheduler_pid)
        assert len(processes) >= 3
        assert len(list((tmp_path / "processes").iterdir())) == 1
        log = tmp_path / "logs" / "engine.log"
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "processes").stat().st_mode) == 0o700
    assert living(processes) == []
    assert list((tmp_path / "processes").iterdir()) == []
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["engine.log"]
    assert not {"ERROR", "CRITICAL"} & set(log.read_text().split(" - "))
    with pytest.raises(PeerUnreachable, match="The engine of this node is not running"):
        engine.client  # noqa: B018


async def test_a_connection_that_ends_without_a_goodbye_is_nothing_to_cry_about(tmp_path: Path) -> None:
    async with make(tmp_path) as engine:
        log = tmp_path / "logs" / "engine.log"
        # With what the client has received and not read, its end is a reset: what it sent may be lost.
        engine.client.scheduler_comm.comm.abort()
        await until(lambda: "Remove client" in log.read_text(), 10)
        await until(lambda: "Close client connection" in log.read_text(), 10)
    assert "CRITICAL" not in log.read_text()


async def test_a_killed_server_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    with python("-c", SERVER, str(tmp_path), log=tmp_path / "stderr") as server:
        assert len(await line(server)) == 2
        processes = family(server.pid)
        assert len(processes) >= 4
        server.kill()
        await until(lambda: not living(processes), 10)
    await until(lambda: list((tmp_path / "processes").iterdir()) == [], 5)


@pytest.mark.parametrize("processes", [2, 3, 4])  # the engine, the resource tracker, two workers that are starting
async def test_an_engine_ends_with_its_parent_also_while_workers_start(tmp_path: Path, processes: int) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    credentials, _ = ClusterCA().issue("engine")
    program = ("-P", "-m", "ainet.engine.process", str(run_dir), str(tmp_path / "log"))
    with python(*program, log=tmp_path / "log") as engine:
        send(engine, {"id": 1, "op": "start", **msgspec.to_builtins(credentials)})
        assert (await line(engine))["answer"]["address"].startswith("tls://127.0.0.1:")
        send(engine, {"id": 2, "op": "grow", "n": 2})
        await until(lambda: len(family(engine.pid)) >= processes)
        all_of_it = family(engine.pid)
        hang_up(engine)
        await until(lambda: not living(all_of_it), 8)
    assert not run_dir.exists()


async def test_a_program_that_cannot_end_in_order_is_ended(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with python("-c", STUCK, str(run_dir), str(tmp_path / "log"), log=tmp_path / "log") as program:
        send(program, {"id": 1, "op": "start"})
        assert (await line(program))["answer"] == "stuck"
        both = family(program.pid)
        assert len(both) == 2
        hang_up(program)
        await until(lambda: not living(both), 8)
    assert not run_dir.exists()


async def test_a_start_that_is_cut_leaves_nothing(tmp_path: Path) -> None:
    engine = make(tmp_path)
    starting = asyncio.create_task(engine.start())
    await until(lambda: engine.scheduler_pid is not None and len(family(engine.scheduler_pid)) > 1)
    assert engine.scheduler_pid is not None
    processes = family(engine.scheduler_pid)  # a worker starts
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert living(processes) == []
    assert list((tmp_path / "processes").iterdir()) == []


async def test_dask_never_prints_into_the_server(tmp_path: Path) -> None:
    with python("-W", "error", "-c", SERVER, str(tmp_path), "crash", log=tmp_path / "stderr") as server:
        assert len(await line(server)) == 3
        processes = family(server.pid)
        rest, _ = await asyncio.to_thread(server.communicate, b"\n")
        assert (server.returncode, rest) == (0, b"")
    assert (tmp_path / "stderr").read_text() == ""
    assert living(processes) == []


async def test_files_of_a_killed_run_are_removed_by_the_next_start(tmp_path: Path) -> None:
    leftover = tmp_path / "processes" / f"{os.getpid()}-12345-abcd"
    leftover.mkdir(parents=True)
    (leftover / "key.pem").write_text("old")
    async with make(tmp_path):
        assert not leftover.exists()


async def test_the_log_stays_short(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "engine.log"
    log.parent.mkdir()
    log.write_text("x" * 3_000_000)
    async with make(tmp_path):
        assert log.stat().st_size < 100_000
        assert (tmp_path / "logs" / "engine.log.1").stat().st_size >= 3_000_000


async def test_a_start_that_fails_names_the_log_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "distributed.py").write_text("raise ImportError('no Dask here')")
    monkeypatch.syspath_prepend(str(tmp_path / "broken"))
    engine = make(tmp_path)
    with pytest.raises(AinetError, match=r"engine\.process failed: ImportError: no Dask here.*engine\.log"):
        await engine.start()
    await engine.stop()
    assert list((tmp_path / "processes").iterdir()) == []
    children = living(psutil.Process().children())
    assert [child for child in children if "engine.process" in " ".join(child.cmdline())] == []
