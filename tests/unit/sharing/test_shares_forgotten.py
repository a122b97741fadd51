"""What was shared with somebody who is trusted no more, and what somebody may not call a share."""

from __future__ import annotations

import contextlib

import pytest
from support.swarms import devices, until

from ainet.errors import Refused
from ainet.links.standing import Standing
from ainet.sharing.shares import Share, Shares, TellShares
from ainet.swarm.feeds import MAX_SAID, Feeds


def share(*nodes, swarm=False):
    return Share("0" * 16, read_only=False, since=0.0, swarm=swarm, nodes=list(nodes))


@contextlib.asynccontextmanager
async def sharing(tmp_path):
    """Two contacts with their shares."""
    async with devices(tmp_path, "ada", "bob", joined=False) as found:
        logs = [Feeds(one.links, one.folder / "logs.sqlite", one.log) for one in found]
        for one, log in zip(found, logs, strict=True):
            one.logs = log
            one.shares = Shares(one.links, log, one.folder / "contact_shares.json", one.log)
        await introduce(*found)
        yield found
        for one in found:
            await one.shares.stop()
            await one.logs.stop()


async def introduce(ada, bob):
    await bob.pairing.accept((await ada.pairing.invite(purpose="introduce")).ticket)
    await until(lambda: ada.links.open_link(bob.id, Standing.CONTACT) and bob.links.open_link(ada.id, Standing.CONTACT))


def names(device):
    return sorted(listed.name for listed in device.shares.all())


async def test_who_was_forgotten_gets_nothing_back_by_a_new_introduction(tmp_path):
    async with sharing(tmp_path) as (ada, bob):
        ada.shares.publish("alone", share(bob.id))
        ada.shares.publish("both", share(bob.id, swarm=True))
        await until(lambda: names(bob) == ["alone", "both"])
        ada.links.trust.forget("bob")
        bob.links.trust.forget("ada")
        assert names(ada) == ["both"]
        await introduce(ada, bob)
        ada.shares.publish("new", share(bob.id))
        await until(lambda: names(bob) == ["new"])


async def test_a_contact_that_becomes_a_member_is_one_and_no_contact(tmp_path):
    async with sharing(tmp_path) as (ada, bob):
        ada.logs.publish("shares", {"for all": share(swarm=True)})
        await bob.joins(ada)
        await until(lambda: ada.links.open_link(bob.id))
        assert ada.identity.contacts.all() == []
        await until(lambda: names(bob) == ["for all"])


@pytest.mark.parametrize("name", ["\x1b[31mred", "plan@ada", "a/b", "x~y", "two\nlines"])
async def test_a_share_that_cannot_be_shown_is_passed_over(tmp_path, name):
    async with sharing(tmp_path) as (ada, bob):
        await ada.shares._tasks.finish()  # it has said that it shares nothing
        await ada.links.open_link(bob.id, Standing.CONTACT).request(
            TellShares({name: share(bob.id), "good": share(bob.id)})
        )
        assert names(bob) == ["good"]


async def test_a_log_that_is_full_still_takes_back(tmp_path):
    async with sharing(tmp_path) as (ada, _):
        everybody = [f"{ada.id[:-1]}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]

        def publish_many():
            for i in range(200):
                ada.shares.publish(f"share {i}", share(*everybody))

        with pytest.raises(Refused, match=f"{MAX_SAID:,} are allowed"):
            publish_many()
        before = len(names(ada))
        assert before > 10
        for i in range(before):
            ada.shares.publish(f"share {i}", None)
        assert names(ada) == []
