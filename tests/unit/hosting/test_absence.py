"""Members that lose their link: who stays away is told of, once, and who comes back is watched on."""

from __future__ import annotations

from support.swarms import devices, until

from ainet.errors import PeerUnreachable
from ainet.hosting.absence import AbsenceWatch


def listener():
    """Return a list of members, and what adds those that are told of."""
    told: list[str] = []

    async def gone(member: str) -> None:
        told.append(member)

    return told, gone


async def test_a_member_that_stays_away_is_told_of_once(tmp_path):
    told, gone = listener()
    async with devices(tmp_path, "desk", "laptop") as (desk, laptop):
        await until(lambda: desk.links.open_link(laptop.id))
        link = desk.links.open_link(laptop.id)
        watch = AbsenceWatch(desk.links, 0.1, gone)
        for _ in range(20):
            await watch.watch(link)
        await laptop.stop()
        await until(lambda: told)
        assert told == [laptop.id]
        await watch.watch(link)  # anew, and it still is not there
        await until(lambda: len(told) == 2)
        await watch.stop()


async def test_a_member_that_comes_back_is_watched_on(tmp_path):
    told, gone = listener()
    async with devices(tmp_path, "desk", "laptop") as (desk, laptop):
        await until(lambda: desk.links.open_link(laptop.id))
        watch = AbsenceWatch(desk.links, 4.0, gone)
        await watch.watch(desk.links.open_link(laptop.id))
        for _ in range(2):  # the cable is pulled, and the link dialled again
            before = desk.links.open_link(laptop.id)
            for device in (desk, laptop):  # each may know of a link that the other does not know yet
                device.links.table.close_all(PeerUnreachable("the cable was pulled"))
            await desk.links.connect(laptop.id)
            await until(lambda before=before: desk.links.open_link(laptop.id) not in (None, before))
            assert told == []
        await laptop.stop()
        await until(lambda: told == [laptop.id], 30)
        await watch.stop()


async def test_watching_stops_at_once(tmp_path):
    async def gone(_member: str) -> None:
        raise AssertionError

    async with devices(tmp_path, "desk", "laptop") as (desk, laptop):
        watch = AbsenceWatch(desk.links, 60.0, gone)
        await until(lambda: desk.links.open_link(laptop.id))
        await watch.watch(desk.links.open_link(laptop.id))
        await watch.stop()  # `devices` looks for tasks that are left


async def test_a_member_that_was_started_anew_knows_nothing_of_what_was_held_for_it(tmp_path):
    told, gone = listener()
    async with devices(tmp_path, "desk", "laptop") as (desk, laptop):
        await until(lambda: desk.links.open_link(laptop.id))
        watch = AbsenceWatch(desk.links, 60.0, gone)
        await watch.watch(desk.links.open_link(laptop.id))
        for n in (1, 2):
            await laptop.stop()
            await laptop.open().start()
            await until(lambda: desk.links.open_link(laptop.id))
            if n == 1:  # it is noticed, even if it begins nothing
                await until(lambda: told == [laptop.id])
            await watch.watch(desk.links.open_link(laptop.id))
            assert told == [laptop.id] * n  # and before it begins anything
        await watch.stop()
