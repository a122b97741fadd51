"""Lending between real links: real schedulers and workers in child processes, whose owners come and go."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest
from support.swarms import devices, until

from ainet.api.answers import Answers
from ainet.api.node import Caps
from ainet.engine.certificates import ClusterCA
from ainet.errors import AinetError, NotEnough, NotFound, PeerUnreachable, Refused
from ainet.lending.lender import Lender, LendWorker, Place
from ainet.resources.allocator import Allocator
from ainet.timing import TIMING, Timing
from ainet.wire.interfaces import own_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.swarms import Device

    from ainet.resources.allocator import Reservation


class Party:
    """A device that lends and borrows."""

    def __init__(self, device: Device, timing: Timing, *, lend: bool = True) -> None:
        device.config.lend = lend
        self.device = device
        self.allocator = Allocator(Caps(memory=4_000_000_000, threads=4, disk=10**9))
        self.kept: Reservation | None = None
        self.lender = Lender(
            answers=Answers(),
            config=device.config,
            identity=device.identity,
            links=device.links,
            allocator=self.allocator,
            make_room=self.make_room,
            data_dir=device.folder,
            log=device.log,
            timing=timing,
        )

    async def make_room(self) -> None:
        """Give up what is kept only in case it is wanted again."""
        if self.kept is not None:
            self.kept.release()

    @property
    def id(self) -> str:
        return self.device.id

    @property
    def lends(self) -> int:
        return len(self.allocator.reservations())

    @property
    def processes(self) -> list[Path]:
        """Folders of the child processes that run."""
        return list((self.device.folder / "processes").glob("*"))


def request_of(asker, port, credentials):
    """Return a request for a worker of the asker's cluster, whose scheduler listens on `port`."""
    return LendWorker("c", Place(asker, port), [], 31_999, credentials)


@contextlib.asynccontextmanager
async def parties(tmp_path: Path, timing: Timing = TIMING, **lend: bool) -> AsyncIterator[list[Party]]:
    async with devices(tmp_path, *lend) as made:
        found = [Party(device, timing, lend=lend[device.name]) for device in made]
        for device in made[1:]:
            await until(lambda device=device: made[0].links.open_link(device.id))
        try:
            yield found
        finally:
            for party in found:
                await party.lender.stop()
        for party in found:
            assert party.processes == []
            assert party.lends == 0


async def both(party: Party) -> list[str]:
    """Open two clusters with a member's worker each."""
    return [opened.id for opened in await asyncio.gather(party.lender.open(1), party.lender.open(1))]


async def test_a_cluster_has_a_worker_of_each_device_and_gives_them_back(tmp_path):
    async with parties(tmp_path, desk=True, laptop=True, phone=False) as (desk, laptop, phone):
        opened = await desk.lender.open()
        assert [worker.node for worker in opened.workers] == ["laptop", "desk"]
        assert [desk.lends, laptop.lends, phone.lends] == [1, 1, 0]
        await desk.lender.close(opened.id)
        assert [desk.lends, laptop.lends] == [0, 0]
        assert desk.processes == laptop.processes == []
        with pytest.raises(NotFound, match="This Dask cluster has ended already"):
            await desk.lender.close(opened.id)
        link = await desk.device.links.connect(phone.id)
        with pytest.raises(Refused, match="phone lends no workers"):
            await link.request(
                request_of(desk.id, int(opened.address.rpartition(":")[2]), ClusterCA().issue("phone")[0])
            )


async def test_one_member_borrows_two_workers_and_no_more(tmp_path):
    async with parties(tmp_path, desk=False, laptop=True) as (desk, laptop):
        first, _ = await both(desk)
        assert laptop.lends == 2
        with pytest.raises(NotEnough, match="laptop lends 2 workers to desk already, and no more to one device"):
            await desk.lender.open(2)
        assert laptop.lends == 2
        await desk.lender.close(first)
        assert laptop.lends == 1
        assert [worker.node for worker in (await desk.lender.open(1)).workers] == ["laptop"]


async def test_memory_that_is_only_kept_in_case_is_lent(tmp_path):
    async with parties(tmp_path, desk=False, laptop=True) as (desk, laptop):
        laptop.kept = laptop.allocator.reserve("a model that may be wanted again", 3_950_000_000)
        assert [worker.node for worker in (await desk.lender.open(1)).workers] == ["laptop"]
        assert laptop.kept.released


async def test_a_member_is_cut_off_while_clusters_end(tmp_path):
    async with parties(tmp_path, desk=False, laptop=True) as (desk, laptop):
        first, second = await both(desk)
        await asyncio.gather(desk.lender.revoke(laptop.id), desk.lender.close(second))
        await until(lambda: laptop.lends == 0)  # its worker's certificate is refused: it ends
        await desk.lender.close(first)


async def test_what_was_lent_to_a_removed_member_comes_back(tmp_path):
    async with parties(tmp_path, desk=False, laptop=True) as (desk, laptop):
        await desk.lender.open(1)
        await laptop.lender.revoke(desk.id)
        assert laptop.lends == 0
        assert laptop.processes == []


async def test_a_node_stops_while_a_cluster_is_being_closed(tmp_path):
    async with parties(tmp_path, desk=False, laptop=True) as (desk, laptop):
        _, second = await both(desk)
        stopping = asyncio.create_task(desk.lender.stop())
        closing = asyncio.create_task(desk.lender.close(second))
        await stopping
        assert desk.processes == []
        with contextlib.suppress(NotFound):  # it may come first or second
            await closing
        await until(lambda: laptop.lends == 0)


async def test_an_interrupted_close_is_finished(tmp_path):
    async with parties(tmp_path, desk=False, laptop=True) as (desk, laptop):
        opened = await desk.lender.open(1)
        closing = asyncio.create_task(desk.lender.close(opened.id))
        await asyncio.sleep(0)  # it begins
        closing.cancel()
        await asyncio.wait([closing])
        await desk.lender.stop()
        assert desk.processes == []
        await until(lambda: laptop.lends == 0)


async def test_stopping_while_a_cluster_is_being_opened_leaves_nothing(tmp_path):
    async with parties(tmp_path, desk=True, laptop=True) as (desk, laptop):
        for n_processes in (1, 2):  # the scheduler starts; the own worker starts, as the last
            opening = asyncio.create_task(desk.lender.open())
            await until(lambda n=n_processes: len(desk.processes) == n)
            assert not opening.done()
            await desk.lender.stop()
            assert desk.processes == []
            with pytest.raises(AinetError):
                await opening
            assert desk.lends == 0
            await until(lambda: laptop.lends == 0)


async def test_a_borrower_that_came_back_and_then_stays_away_loses_its_workers(tmp_path):
    async with parties(tmp_path, Timing(resume=3.0), desk=False, laptop=True) as (desk, laptop):
        await desk.lender.open(1)
        before = laptop.device.links.open_link(desk.id)
        desk.device.links.table.close_all(PeerUnreachable("the cable was pulled"))
        grace = time.monotonic() + 3.5
        await desk.device.links.connect(laptop.id)  # at once, and not when it is tried anyway
        await until(lambda: laptop.device.links.open_link(desk.id) not in (None, before))
        await until(lambda: time.monotonic() > grace)
        assert laptop.lends == 1
        await desk.device.stop()  # its scheduler lives on
        await until(lambda: laptop.lends == 0, 30)
        assert desk.processes


async def test_a_worker_that_is_taken_back_while_it_starts_is_gone(tmp_path):
    async with parties(tmp_path, desk=False, laptop=True) as (desk, laptop):
        with socket.create_server((own_loopback(desk.id), 0)) as silent:  # a scheduler that says nothing
            credentials, _ = ClusterCA().issue("laptop")
            link = await desk.device.links.connect(laptop.id)
            request = request_of(desk.id, silent.getsockname()[1], credentials)
            asking = asyncio.create_task(link.request(request))
            await until(lambda: laptop.processes)
            await laptop.lender.revoke(desk.id)
            with pytest.raises(Refused, match="laptop took the worker back while it started"):
                await asking
        assert laptop.processes == []
        assert laptop.lends == 0
