"""Clocks that are hours apart: nothing between devices depends on them."""

from __future__ import annotations

import contextlib

import pytest
from support.documents import plan, says, sharing
from support.swarms import Device, at, until

from ainet.links.standing import Standing
from ainet.swarm.feeds import Feeds

HOUR = 3600.0
#: The second is that of a device that takes its local time for the world's.
DIFFERENCES = [HOUR, -HOUR, 13 * HOUR, -11 * HOUR]


@contextlib.asynccontextmanager
async def apart(tmp_path, seconds):
    """Two devices, the first one's clock ahead of the other one's."""
    desk, phone = Device(tmp_path / "desk", "desk", now=at(seconds)), Device(tmp_path / "phone", "phone")
    await desk.start()
    await phone.start()
    try:
        yield desk, phone
    finally:
        await phone.stop()
        await desk.stop()


@pytest.mark.parametrize("seconds", DIFFERENCES)
async def test_members_join_and_agree(tmp_path, seconds):
    async with apart(tmp_path, seconds) as (desk, phone), sharing(desk, phone) as (one, other):
        mine, theirs = (Feeds(device.links, device.folder / "logs.sqlite", device.log) for device in (desk, phone))
        await phone.joins(desk)
        plan(one)["a"] = 1
        plan(other)["b"] = 2
        for documents in (one, other):
            await until(lambda documents=documents: says(documents) == {"a": 1, "b": 2})
        for number in (1, 2):
            mine.publish("capabilities", {"of desk": number})
            theirs.publish("capabilities", {"of phone": number})
            await until(lambda number=number: theirs.get(desk.id, "capabilities", "of desk", int) == number)
            await until(lambda number=number: mine.get(phone.id, "capabilities", "of phone", int) == number)
        plan(other)["a"] = "later"  # whatever the clocks say
        await until(lambda: says(one)["a"] == "later")
        for logs in (mine, theirs):
            await logs.stop()


@pytest.mark.parametrize("seconds", DIFFERENCES)
async def test_contacts_are_introduced(tmp_path, seconds):
    async with apart(tmp_path, seconds) as (desk, phone):
        await phone.pairing.accept((await desk.pairing.invite(purpose="introduce")).ticket)
        await until(
            lambda: (
                phone.links.open_link(desk.id, Standing.CONTACT) and desk.links.open_link(phone.id, Standing.CONTACT)
            )
        )
