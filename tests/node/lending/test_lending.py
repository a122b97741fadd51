"""Lent workers: a real scheduler child, two lenders' children, and the asker's `distributed.Client`."""

from __future__ import annotations

import asyncio
import json
import logging
import operator
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Client
from distributed.core import rpc
from support.processes import family, line, living, ports, python, until

from ainet.engine.certificates import ClusterCA, DaskCredentials
from ainet.errors import PeerUnreachable
from ainet.lending.client_cluster import ClientCluster
from ainet.lending.lent_worker import LentWorker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import psutil

LOG = logging.getLogger("ainet.tests")

#: A lender's node: lends a worker as told on its command line, prints its pid, and then waits.
LENDER = """
import asyncio, json, logging, pathlib, sys
from ainet.engine.certificates import DaskCredentials
from ainet.lending.lent_worker import LentWorker

async def main():
    parameters = json.loads(sys.stdin.readline())
    parameters["credentials"] = DaskCredentials(**parameters["credentials"])
    async with LentWorker(pathlib.Path(sys.argv[1]), logging.getLogger(), **parameters) as lent:
        print(json.dumps(lent.pid), flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


class Lending:
    """One asker's cluster with lenders, and everything that they started."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ended: list[str] = []
        self.lent: dict[str, LentWorker] = {}
        self.cluster = self.make()

    def make(self, **options: Any) -> ClientCluster:
        data_dir = self.path / "asker"
        data_dir.mkdir(exist_ok=True)
        cluster = ClientCluster(data_dir, LOG, **options)
        cluster.on_end(lambda: self.ended.append("cluster"))
        return cluster

    def lender(self, name: str, credentials: DaskCredentials | None = None) -> LentWorker:
        data_dir = self.path / name
        data_dir.mkdir(exist_ok=True)
        lent = LentWorker(
            data_dir,
            LOG,
            scheduler=self.cluster.address,
            credentials=credentials or self.cluster.issue(name),
            name=name,
        )
        lent.on_end(lambda: self.ended.append(name))
        return lent

    async def start(self) -> None:
        await self.cluster.start()
        await self.lend()

    async def lend(self) -> None:
        self.lent = {name: self.lender(name) for name in ("anna", "bert")}
        await asyncio.gather(*(lent.start() for lent in self.lent.values()))

    async def stop(self) -> None:
        await asyncio.gather(*(lent.stop() for lent in self.lent.values()), self.cluster.stop())

    def client(self, credentials: DaskCredentials | None = None) -> Client:
        security = (credentials or self.cluster.credentials).security()
        timeout = 2 if credentials else 10  # others are tried until the time is over
        return Client(self.cluster.address, security=security, asynchronous=True, set_as_default=False, timeout=timeout)

    def processes(self) -> list[psutil.Process]:
        pids = [self.cluster.scheduler_pid, *(lent.pid for lent in self.lent.values())]
        return [process for pid in pids if pid is not None for process in family(pid)]

    def files(self) -> list[Path]:
        return list(self.path.glob("*/processes/*"))

    async def names(self) -> list[str]:
        return sorted(worker.name for worker in await self.cluster.workers())

    async def until_names(self, *names: str) -> None:
        async with asyncio.timeout(20):
            while await self.names() != list(names):
                await asyncio.sleep(0.02)


@pytest.fixture
async def lending(tmp_path: Path) -> AsyncIterator[Lending]:
    lending = Lending(tmp_path)
    await lending.start()
    yield lending
    await lending.stop()


async def squares(client: Client) -> list[int]:
    return list(await client.gather(client.map(operator.mul, range(20), range(20), pure=False)))


async def test_tasks_run_on_the_lenders_workers(lending: Lending) -> None:
    async with lending.client() as client:
        assert await squares(client) == [n * n for n in range(20)]
        pids = await client.run(os.getpid)
        assert sorted(pids.values()) == sorted(lent.pid for lent in lending.lent.values() if lent.pid)
        assert sorted(pids) == sorted(lent.address for lent in lending.lent.values())
    assert await lending.names() == ["anna", "bert"]
    assert len(ports(lending.processes())) == 3  # nothing but the TLS ports of scheduler and workers


async def test_stopping_the_cluster_ends_scheduler_and_workers(lending: Lending) -> None:
    processes = lending.processes()
    assert len(processes) == 3
    await lending.cluster.stop()
    await until(lambda: sorted(lending.ended) == ["anna", "bert"], 10)
    assert living(processes) == []
    assert lending.files() == []


async def test_a_dead_scheduler_ends_the_lent_workers(lending: Lending) -> None:
    processes = lending.processes()
    assert lending.cluster.scheduler_pid is not None
    os.kill(lending.cluster.scheduler_pid, signal.SIGKILL)
    await until(lambda: sorted(lending.ended) == ["anna", "bert", "cluster"], 10)
    assert living(processes) == []
    assert lending.files() == []


async def test_a_lender_that_ends_takes_only_its_worker(lending: Lending) -> None:
    await lending.lent["anna"].stop()
    await lending.until_names("bert")
    async with lending.client() as client:
        assert await squares(client) == [n * n for n in range(20)]
    assert lending.ended == []


async def test_a_busy_worker_is_taken_back_at_once(lending: Lending) -> None:
    async with lending.client() as client:
        long = client.submit(time.sleep, 600, workers=[lending.lent["anna"].address], allow_other_workers=False)
        async with asyncio.timeout(20):
            while not any((await client.processing()).values()):
                await asyncio.sleep(0.02)
        async with asyncio.timeout(5):
            await lending.lent["anna"].stop()
        await client.cancel(long)
    assert lending.lent["anna"].pid is None


async def test_without_a_client_everything_ends_after_the_idle_time(tmp_path: Path) -> None:
    lending = Lending(tmp_path)
    lending.cluster = lending.make(idle_seconds=3)
    await lending.cluster.start()
    begin = time.monotonic()
    async with lending.client() as client:
        await lending.lend()
        processes = lending.processes()
        while time.monotonic() - begin < 4:  # connected for longer than the idle time
            assert await squares(client) == [n * n for n in range(20)]
    assert lending.ended == []
    await until(lambda: sorted(lending.ended) == ["anna", "bert", "cluster"], 10)
    assert living(processes) == []
    assert lending.files() == []
    await lending.stop()


async def test_a_certificate_of_another_ca_is_refused(lending: Lending) -> None:
    stranger, _ = ClusterCA().issue("anna")
    with pytest.raises(OSError, match="TLS certificate does not match"):
        await lending.client(stranger)
    # It trusts this cluster, but this cluster does not trust it.
    impostor = DaskCredentials(ca=lending.cluster.credentials.ca, cert=stranger.cert, key=stranger.key)
    with pytest.raises(OSError, match="tls://"):
        await lending.client(impostor)
    with pytest.raises(
        PeerUnreachable, match=rf"scheduler at {lending.cluster.address} does not accept it.*engine\.log"
    ):
        await lending.lender("carl", stranger).start()
    assert await lending.names() == ["anna", "bert"]
    assert list((lending.path / "carl" / "processes").iterdir()) == []


async def test_a_revoked_lender_is_cut_off_and_refused_by_scheduler_and_workers(lending: Lending) -> None:
    credentials = lending.cluster.issue("anna")  # a second one of the same lender
    async with lending.client() as client:
        await lending.cluster.revoke("anna")
        await until(lambda: lending.ended == ["anna"], 5)
        await lending.until_names("bert")
        assert await squares(client) == [n * n for n in range(20)]

        with pytest.raises(OSError, match="tls://"):
            await lending.client(credentials)
        with pytest.raises(PeerUnreachable, match="does not accept it"):
            await lending.lender("anna", credentials).start()

        # The other worker was told, and so is one that comes later.
        lending.lent["carl"] = lending.lender("carl")
        await lending.lent["carl"].start()
        await lending.until_names("bert", "carl")
        for name in ("bert", "carl"):
            assert not await asks_worker(lending.lent[name].address, credentials)
            assert await asks_worker(lending.lent[name].address, lending.cluster.credentials)


async def asks_worker(address: str, credentials: DaskCredentials) -> bool:
    """Return whether a Dask worker answers somebody with these credentials."""
    connection = rpc(address, connection_args=credentials.security().get_connection_args("worker"), timeout=2)
    try:
        return bool(await connection.identity())
    except OSError:
        return False
    finally:
        await connection.close_rpc()


async def test_a_worker_that_falls_over_is_started_again(lending: Lending) -> None:
    pid = lending.lent["anna"].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: lending.lent["anna"].pid not in (None, pid))
    await lending.until_names("anna", "bert")
    assert lending.ended == []


async def test_a_client_can_restart_lent_workers(lending: Lending) -> None:
    before = {lent.pid for lent in lending.lent.values()}
    async with lending.client() as client:
        await client.restart()
        assert not before & {lent.pid for lent in lending.lent.values()}
        assert await squares(client) == [n * n for n in range(20)]


async def test_a_killed_lender_leaves_nothing(lending: Lending, tmp_path: Path) -> None:
    data_dir = tmp_path / "dora"
    data_dir.mkdir()
    credentials = lending.cluster.issue("dora")
    told = {"scheduler": lending.cluster.address, "name": "dora"}
    told["credentials"] = {name: getattr(credentials, name) for name in ("ca", "cert", "key")}
    with python("-c", LENDER, str(data_dir), log=tmp_path / "stderr") as lender:
        assert lender.stdin is not None
        lender.stdin.write(json.dumps(told).encode() + b"\n")
        lender.stdin.flush()
        await line(lender)
        await lending.until_names("anna", "bert", "dora")
        processes = family(lender.pid)
        assert len(processes) == 2
        lender.kill()
        await until(lambda: not living(processes), 10)
    await lending.until_names("anna", "bert")
    await until(lambda: list((data_dir / "processes").iterdir()) == [], 5)
