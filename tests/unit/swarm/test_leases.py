"""Leases: one holder in every part of a swarm, and one whose effects count when parts meet."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from support.swarms import devices, until

from ainet.errors import LeaseLost, PeerUnreachable
from ainet.swarm.feeds import Feeds
from ainet.swarm.leases import MAX_REMEMBERED, Lease, Leases, ReturnLease, TakeLease
from ainet.timing import Timing


@contextlib.asynccontextmanager
async def leasing(tmp_path, *names, **settings):
    """Yield devices, each with its `leases`, and all linked."""
    async with devices(tmp_path, *names, **settings) as found:
        for one in found:
            open_leases(one)
        for one in found:
            for other in found:
                if one.id < other.id:
                    await one.links.connect(other.id)
        yield found
        for one in found:
            await one.leases.stop()
            await one.logs.stop()


def open_leases(device):
    device.logs = Feeds(device.links, device.folder / "logs.sqlite", device.log)
    device.leases = Leases(device.links, device.logs, device.log, timing=device.timing)


class Work:
    """Something that only one should do at a time."""

    def __init__(self) -> None:
        self.doing: list[str] = []
        self.numbers: list[int] = []
        self.most = 0
        self.go = asyncio.Event()

    def by(self, device, waited=None, name="load"):
        async def work(number):
            self.doing.append(device.name)
            self.numbers.append(number)
            self.most = max(self.most, len(self.doing))
            try:
                await self.go.wait()
                await asyncio.sleep(0.01)
            finally:
                self.doing.remove(device.name)
            return device.name

        waited = [] if waited is None else waited
        return asyncio.create_task(device.leases.run(name, work, waited.append))


async def cut(one, *others):
    """Part `one` from the others for as long as the test does not connect them."""
    for device in (one, *others):
        await device.links.upkeep.stop()
    for device in (one, *others):
        for link in device.links.links():
            if one.id in (device.id, link.peer_id):
                link.close(PeerUnreachable("The cable is pulled."))
    await until(lambda: not one.links.links())


async def test_one_at_a_time_and_each_with_a_higher_number(tmp_path):
    async with leasing(tmp_path, "ada", "bob", "carl") as found:
        work = Work()
        work.go.set()
        done = await asyncio.gather(*(work.by(device) for device in found))
        assert sorted(done) == ["ada", "bob", "carl"]
        for device in found:
            await work.by(device)
        assert work.most == 1
        assert work.numbers == sorted(set(work.numbers))


async def test_different_leases_are_held_side_by_side_and_who_waits_hears_for_whom(tmp_path):
    async with leasing(tmp_path, "ada", "bob") as (ada, bob):
        work, waited = Work(), []
        first, other = work.by(ada), work.by(bob, name="another")
        await until(lambda: len(work.doing) == 2)
        second = work.by(bob, waited)
        await until(lambda: waited)
        assert waited[0] == "ada"
        work.go.set()
        assert await asyncio.gather(first, other, second) == ["ada", "bob", "bob"]


async def test_who_gives_up_waiting_or_working_holds_nobody_up(tmp_path):
    async with leasing(tmp_path, "ada", "bob", "carl") as (ada, bob, carl):
        work, waited = Work(), []
        first = work.by(ada)
        await until(lambda: work.doing == ["ada"])
        second = work.by(bob, waited)
        await until(lambda: waited)
        second.cancel()
        third = work.by(carl, waited)
        await until(lambda: len(waited) > 1)
        first.cancel()
        await until(lambda: work.doing == ["carl"])
        work.go.set()
        assert await third == "carl"


async def test_the_lease_of_a_member_that_is_gone_is_free(tmp_path):
    async with leasing(tmp_path, "ada", "bob") as (ada, bob):
        work = Work()
        first = work.by(ada)
        await until(lambda: work.doing == ["ada"])
        second = work.by(bob)
        await cut(ada, bob)
        await until(lambda: sorted(work.doing) == ["ada", "bob"])  # one in each part
        assert work.numbers[1] > work.numbers[0]
        # They meet: the earlier one has lost, and nobody does anything in its name any more.
        await bob.links.connect(ada.id)
        with pytest.raises(LeaseLost, match="bob does the same"):
            await first
        assert work.doing == ["bob"]
        for device in (ada, bob):
            with pytest.raises(LeaseLost, match="has a later lease"):
                device.leases.check("load", work.numbers[0], ada.id)
            device.leases.check("load", work.numbers[1], bob.id)
        work.go.set()
        assert await second == "bob"


async def test_a_holder_that_ended_in_the_middle_holds_nothing_when_it_is_back(tmp_path):
    async with leasing(tmp_path, "ada", "bob") as (ada, bob):
        ada.logs.publish("leases", {"load": Lease(7, held=True)})
        await until(lambda: bob.leases._holder("load") == ada.id)
        await ada.logs.stop()
        await ada.stop()
        ada.open()
        open_leases(ada)
        await ada.start()
        await ada.links.connect(bob.id)
        await until(lambda: bob.leases._holder("load") is None)
        work = Work()
        work.go.set()
        assert await work.by(bob) == "bob"
        assert work.numbers == [8]


async def test_a_node_alone_needs_nobody(tmp_path):
    async with leasing(tmp_path, "ada") as (ada,):
        work = Work()
        work.go.set()
        for i in range(MAX_REMEMBERED + 10):
            assert await work.by(ada, name=f"load {i}") == "ada"
        assert len(ada.logs.keys(ada.id, "leases")) <= MAX_REMEMBERED


async def test_only_who_was_granted_a_lease_can_give_it_back(tmp_path):
    async with leasing(tmp_path, "ada", "bob", "carl") as (ada, bob, carl):
        link = await bob.links.connect(ada.id)
        assert (await link.request(TakeLease("load"))).holder == bob.id
        other = await carl.links.connect(ada.id)
        assert (await other.request(TakeLease("load"))).holder == bob.id
        await other.request(ReturnLease("load"))
        assert (await other.request(TakeLease("load"))).holder == bob.id
        await link.request(ReturnLease("load"))
        assert (await other.request(TakeLease("load"))).holder == carl.id


async def test_a_lease_ends_whatever_happens_to_its_work(tmp_path, monkeypatch):
    async with leasing(tmp_path, "ada", "bob") as (ada, bob):
        entered, slow = asyncio.Event(), asyncio.Event()

        async def stubborn(_number):
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                await slow.wait()  # as an unloading that takes its time

        task = asyncio.create_task(ada.leases.run("load", stubborn, print))
        await entered.wait()
        for _ in range(3):  # interrupted again and again
            task.cancel()
            await asyncio.sleep(0.01)
        slow.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: bob.leases._holder("load") is None)
        assert ada.leases._holder("load") is None


async def test_two_on_one_device_take_turns(tmp_path):
    async with leasing(tmp_path, "ada") as (ada,):
        work = Work()
        work.go.set()
        await asyncio.gather(*(work.by(ada) for _ in range(5)))
        assert work.most == 1


async def test_a_grant_that_nobody_used_is_void_after_a_while(tmp_path):
    async with leasing(tmp_path, "ada", "bob", "carl", timing=Timing(lease_grant=2.0)) as (ada, bob, carl):
        link, other = await bob.links.connect(ada.id), await carl.links.connect(ada.id)
        await link.request(TakeLease("load"))  # and then bob says nothing more
        assert (await other.request(TakeLease("load"))).holder == bob.id
        work = Work()
        work.go.set()
        assert await work.by(carl) == "carl"
