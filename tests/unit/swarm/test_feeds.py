"""Feeds between members: passed on, kept, begun anew after a restore, forgotten with their author."""

from __future__ import annotations

import contextlib
import shutil

import pytest
from support.swarms import devices, until

from ainet.errors import Refused
from ainet.swarm.feed import Body, Place, make_entry
from ainet.swarm.feeds import COMPACT_AFTER, Feeds, KnownFeed, PushEntries, SyncLogs

LOG = "capabilities"


@contextlib.asynccontextmanager
async def logging(*several):
    """Give each device its logs."""
    opened = [Feeds(device.links, device.folder / "logs.sqlite", device.log) for device in several]
    try:
        yield opened
    finally:
        for one in opened:
            await one.stop()


def says(logs, author, key, kind=int):
    return logs.get(author.id, LOG, key, kind)


async def test_what_a_member_says_is_known_to_all(tmp_path):
    async with devices(tmp_path, "desk", "phone", "tablet") as all_of, logging(*all_of) as all_logs:
        phone = all_of[1]
        all_logs[1].publish(LOG, {"memory": 1})
        for logs in all_logs:
            await until(lambda logs=logs: says(logs, phone, "memory") == 1)
        all_logs[1].publish(LOG, {"memory": None, "threads": 2})
        for logs in all_logs:
            await until(lambda logs=logs: says(logs, phone, "threads") == 2)
            assert says(logs, phone, "memory") is None


async def test_members_that_never_meet_hear_of_each_other(tmp_path):
    async with devices(tmp_path, "desk", "phone", "tablet") as (desk, phone, tablet), logging(desk) as (desk_logs,):
        async with logging(phone, tablet) as (phone_logs, tablet_logs):
            await tablet.stop()
            phone_logs.publish(LOG, {"memory": 1})
            await until(lambda: says(desk_logs, phone, "memory") == 1)
            await phone.stop()
            await tablet_logs.stop()
        tablet.open()
        async with logging(tablet) as (tablet_logs,):
            await tablet.start()
            await tablet.links.connect(desk.id)
            await until(lambda: says(tablet_logs, phone, "memory") == 1)


async def test_a_long_log_is_compacted_and_read_again_after_a_restart(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone):
        async with logging(desk, phone) as (desk_logs, phone_logs):
            await phone.links.connect(desk.id)
            for i in range(5 * COMPACT_AFTER):
                desk_logs.publish(LOG, {"load": i, f"key{i % 7}": i})
            await until(lambda: says(phone_logs, desk, "load") == 5 * COMPACT_AFTER - 1, 30)
            for logs in (desk_logs, phone_logs):
                (count,) = logs._file.execute("SELECT count(*) FROM entries").fetchone()
                assert count <= COMPACT_AFTER + 2
        for device in (desk, phone):
            await device.stop()
            await device.open().start()
        async with logging(desk, phone) as (desk_logs, phone_logs):
            for logs in (desk_logs, phone_logs):
                assert says(logs, desk, "load") == 5 * COMPACT_AFTER - 1
                assert len(logs.keys(desk.id, LOG)) == 8


async def test_saying_the_same_again_says_nothing(tmp_path):
    async with devices(tmp_path, "desk") as (desk,), logging(desk) as (logs,):
        logs.publish(LOG, {"memory": 1, "threads": 2})
        logs.publish(LOG, {"memory": 1})
        (count,) = logs._file.execute("SELECT count(*) FROM entries").fetchone()
        assert count == 1


async def test_a_node_restored_from_a_backup_begins_anew(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone), logging(desk) as (desk_logs,):
        async with logging(phone) as (phone_logs,):
            await phone.links.connect(desk.id)
            phone_logs.publish(LOG, {"memory": 1})
            await until(lambda: says(desk_logs, phone, "memory") == 1)
        shutil.copy(phone.folder / "logs.sqlite", tmp_path / "backup")
        await phone.stop()
        await phone.open().start()
        async with logging(phone) as (phone_logs,):
            phone_logs.publish(LOG, {"memory": 2, "later": 1})
            await until(lambda: says(desk_logs, phone, "memory") == 2)
        await phone.stop()
        for leftover in phone.folder.glob("logs.sqlite*"):
            leftover.unlink()
        shutil.copy(tmp_path / "backup", phone.folder / "logs.sqlite")
        phone.open()
        async with logging(phone) as (phone_logs,):
            assert says(phone_logs, phone, "memory") == 1
            phone_logs.publish(LOG, {"memory": 3})  # forks, before anybody is there
            await phone.start()
            await phone.links.connect(desk.id)
            await until(lambda: says(desk_logs, phone, "memory") == 3)
            assert says(desk_logs, phone, "later") is None
            phone_logs.publish(LOG, {"memory": 4})
            await until(lambda: says(desk_logs, phone, "memory") == 4)


async def test_a_removed_member_is_forgotten_and_not_heard(tmp_path):
    async with (
        devices(tmp_path, "desk", "phone", "tablet") as (desk, phone, tablet),
        logging(desk, phone, tablet) as (desk_logs, phone_logs, tablet_logs),
    ):
        phone_logs.publish(LOG, {"memory": 1})
        for logs in (desk_logs, tablet_logs):
            await until(lambda logs=logs: says(logs, phone, "memory") == 1)
        desk.links.trust.remove("phone")
        for logs in (desk_logs, tablet_logs):
            await until(lambda logs=logs: says(logs, phone, "memory") is None)
        entry = make_entry(Body(phone.id, LOG, 5, 0, b"", 1.0, {}), phone.identity.sign)
        link = await tablet.links.connect(desk.id)
        await link.request(PushEntries([entry]))
        assert not desk_logs.keys(phone.id, LOG)


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_clocks_may_be_wrong(tmp_path, seconds):
    async with devices(tmp_path, "desk", "phone") as (desk, phone), logging(desk, phone) as (desk_logs, phone_logs):
        await phone.links.connect(desk.id)
        real = phone.identity.now
        phone.identity.now = lambda: real() + seconds
        for i in range(5):
            phone_logs.publish(LOG, {"load": i})
        await until(lambda: says(desk_logs, phone, "load") == 4)


async def test_nobody_drives_another_ones_log_by_a_claim(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone), logging(desk) as (desk_logs,):
        link = await phone.links.connect(desk.id)
        desk_logs.publish(LOG, {"memory": 1})
        claims = [KnownFeed(desk.id, name, Place(2**53 - 1, 0)) for name in (LOG, "shares", "madeup")]
        await link.request(SyncLogs(claims))
        desk_logs.publish(LOG, {"memory": 2})
        assert desk_logs._feeds[desk.id, LOG].place.epoch == 0
        assert set(desk_logs._feeds) == {(desk.id, LOG)}


async def test_one_member_has_a_few_logs_only(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone), logging(desk) as (desk_logs,):
        link = await phone.links.connect(desk.id)
        names = "abcdefghijkl"
        entries = [make_entry(Body(phone.id, name, 0, 0, b"", 1.0, {}), phone.identity.sign) for name in names]
        with pytest.raises(Refused, match="8 logs already"):
            await link.request(PushEntries(entries))
        assert len(desk_logs._feeds) == 8
