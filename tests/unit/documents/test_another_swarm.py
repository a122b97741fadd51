"""A device that joins another swarm brings along what is its own, and nothing of those whom it leaves."""

from __future__ import annotations

import contextlib

from support.documents import PLAN, plan, says, sharing
from support.swarms import devices, until

from ainet.api.answers import Answers
from ainet.documents.store import DocumentStore
from ainet.sharing.shares import Share, Shares
from ainet.swarm.feeds import Feeds
from ainet.swarm.settings import SwarmSettings

SHARE = Share("0" * 16, read_only=False, since=0.0)


@contextlib.asynccontextmanager
async def swarm(tmp_path, *names, joined=True):
    """Devices with logs, documents and shares."""
    async with devices(tmp_path, *names, joined=joined) as found:
        logs = [Feeds(one.links, one.folder / "logs.sqlite", one.log) for one in found]
        async with sharing(*found) as documents:
            shares = [
                Shares(one.links, log, one.folder / "contact_shares.json", one.log)
                for one, log in zip(found, logs, strict=True)
            ]
            yield list(zip(found, logs, documents, shares, strict=True))
            for kept in (*shares, *logs):
                await kept.stop()


async def test_a_device_that_was_alone_keeps_its_own_and_takes_over_the_swarms_settings(tmp_path):
    async with swarm(tmp_path, "desk", "phone", joined=False) as ((desk, _, one, _), (phone, logs, other, shares)):
        theirs, mine = SwarmSettings(one, Answers()), SwarmSettings(other, Answers())
        theirs.set("model", "theirs")
        mine.set("model", "mine")
        plan(other)["mine"] = 1
        shares.publish("notes", SHARE)
        await phone.joins(desk)
        await until(lambda: says(one) == {"mine": 1})
        await until(lambda: mine.get("model") == "theirs")
        assert theirs.get("model") == "theirs"
        assert logs.keys(phone.id, "shares") == ["notes"]


async def test_a_device_that_left_others_takes_nothing_of_theirs_along(tmp_path):
    async with swarm(tmp_path, "desk", "phone", "new", joined=False) as (
        (desk, _, one, theirs),
        (phone, logs, other, shares),
        (new, _, third, _),
    ):
        await phone.joins(desk)
        plan(one)["secret"] = 1
        theirs.publish("plans", SHARE)
        shares.publish("notes", SHARE)
        await until(lambda: says(other) == {"secret": 1} and logs.keys(desk.id, "shares"))
        ended = []
        other.watch(PLAN, lambda *_: None, lambda: ended.append(True))
        left = phone.identity.swarm
        desk.links.trust.remove("phone")
        await until(lambda: phone.identity.removed)
        await phone.joins(new)
        await until(lambda: phone.links.open_link(new.id))
        assert ended == [True]
        assert not logs.keys(desk.id, "shares")
        assert not logs.keys(phone.id, "shares")
        plan(third)["new"] = 2
        await until(lambda: says(other) == {"new": 2})
        assert says(third) == {"new": 2}
        with contextlib.closing(DocumentStore(phone.folder / f"documents-{left[:8]}.sqlite")) as aside:
            assert aside.names() == [PLAN]  # nothing is lost


async def test_a_device_that_was_removed_and_comes_back_has_everything_still(tmp_path):
    async with swarm(tmp_path, "desk", "phone") as ((desk, _, one, _), (phone, _, other, _)):
        plan(one)["a"] = 1
        await until(lambda: says(other) == {"a": 1})
        desk.links.trust.remove("phone")
        await until(lambda: phone.identity.removed)
        plan(other)["b"] = 2
        await phone.joins(desk)
        await until(lambda: says(one) == says(other) == {"a": 1, "b": 2})
