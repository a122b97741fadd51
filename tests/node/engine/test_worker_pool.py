"""Workers serve one purpose at a time; what matters more has them first, and a lease ends with its holder."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import pytest
from support.processes import until

from ainet.config import AinetConfig
from ainet.engine.engine import Engine
from ainet.engine.worker_pool import Purpose, WorkerPool
from ainet.errors import NotEnough
from ainet.timing import Timing

LOG = logging.getLogger("ainet.tests")


@pytest.fixture
async def pool(tmp_path, timing):
    """The workers of an engine of its own."""
    config = AinetConfig(data_dir=str(tmp_path / "node"))
    async with Engine(config, config.make_data_dir(), LOG) as engine:
        found = WorkerPool(engine, LOG, timing=timing)
        found.engine = engine
        yield found
        await found.stop()


async def test_each_lease_has_a_worker_of_its_own_which_the_next_one_takes_over(pool):
    async with await pool.lease(Purpose.STAGE) as stage, await pool.lease(Purpose.EMBEDDINGS) as embeddings:
        assert stage.worker.pid != embeddings.worker.pid
        assert pool.lease_of(stage.worker.address) is stage
    assert pool.lease_of(stage.worker.address) is None
    async with await pool.lease(Purpose.TRAINING) as training:
        assert training.worker.pid in {stage.worker.pid, embeddings.worker.pid}
    assert pool.limit is None


async def test_a_lease_ends_with_its_holder(pool):
    async def fail():
        lease = await pool.lease(Purpose.PAID_JOB, asyncio.current_task())
        leases.append(lease)
        raise RuntimeError("The job failed.")

    leases = []
    with pytest.raises(RuntimeError):
        await asyncio.create_task(fail())
    await asyncio.wait_for(leases[0].released.wait(), 5)
    assert pool.lease_of(leases[0].worker.address) is None


async def test_a_lost_worker_ends_its_lease(pool):
    lease = await pool.lease(Purpose.STAGE)
    os.kill(lease.worker.pid, signal.SIGKILL)
    await asyncio.wait_for(lease.lost.wait(), 20)
    assert lease.released.is_set()
    async with await pool.lease(Purpose.STAGE) as again:
        assert again.worker.pid != lease.worker.pid


@pytest.mark.parametrize("timing", [Timing(spare_start=0.0, worker_idle=0.0)])
async def test_a_spare_worker_is_kept_and_what_nobody_needs_ends(pool):
    leases = [await pool.lease(Purpose.STAGE) for _ in range(2)]
    pool.keep_spare()
    await until(lambda: len(pool.engine.workers()) == 3)
    for lease in leases:
        lease.release()
    await until(lambda: len(pool.engine.workers()) == 1)


class Cluster:
    """An existing cluster with two workers, as the pool sees it."""

    own = False

    def __init__(self, workers):
        self._workers = workers

    def on_worker_lost(self, callback):
        self.lose = callback

    def workers(self):
        return self._workers

    async def ensure_workers(self, n):
        if n > len(self._workers):
            raise NotEnough("Start more workers there.")
        return self._workers


async def test_where_there_are_too_few_the_least_important_gives_way(pool):
    own = [await pool.lease(Purpose.STAGE) for _ in range(2)]
    few = WorkerPool(Cluster([lease.worker for lease in own]), LOG, timing=Timing(worker_return=0.05))
    assert few.limit == 2
    training, job = await few.lease(Purpose.TRAINING), await few.lease(Purpose.PAID_JOB)
    with pytest.raises(NotEnough):
        await few.lease(Purpose.TRAINING)
    stage = await few.lease(Purpose.STAGE)
    assert stage.worker is training.worker
    assert training.lost.is_set()  # its holder did not give it back
    assert not job.wanted.is_set()

    async def obey():
        await job.wanted.wait()
        job.release()

    obeying = asyncio.create_task(obey())
    second = await few.lease(Purpose.STAGE)
    await obeying
    assert second.worker is job.worker
    assert not job.lost.is_set()
    with pytest.raises(NotEnough):
        await few.lease(Purpose.STAGE)
    await few.stop()
