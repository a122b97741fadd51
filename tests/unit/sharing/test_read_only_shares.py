"""A notebook that may only be read: every member that has it takes changes from the sharer alone."""

from __future__ import annotations

import contextlib

import pytest
from pycrdt import Map
from support.documents import says
from support.swarms import Device, devices, until

from ainet.documents.exchange import Documents, PushUpdate
from ainet.documents.kinds import Fetch
from ainet.errors import PeerUnreachable, Refused
from ainet.sharing.shares import NOTEBOOK, Listed, Share, Shares
from ainet.swarm.feeds import Feeds


class Sharer:
    """A device with its documents, of which those that are shared are guarded."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.logs = Feeds(device.links, device.folder / "logs.sqlite", device.log)
        self.documents = Documents(device.links, device.folder / "documents.sqlite", device.log)
        self.shares = Shares(device.links, self.logs, device.folder / "contact_shares.json", device.log)
        self.documents.register(NOTEBOOK, self.shares, Fetch.ONCE_OPENED)

    def cells(self, name):
        return self.documents.open(name).doc.get("map", type=Map)

    def says(self, name):
        return self.cells(name).to_py() or {}

    async def stop(self) -> None:
        await self.shares.stop()
        await self.documents.stop()
        await self.logs.stop()


@contextlib.asynccontextmanager
async def shared(tmp_path, *, read_only):
    """Ada shares a document that Bob and Carl have, too; yields the three and the document's name."""
    async with devices(tmp_path, "ada", "bob", "carl") as found, contextlib.AsyncExitStack() as stack:
        ada, bob, carl = three = [Sharer(device) for device in found]
        for one in three:
            stack.push_async_callback(one.stop)
        for one, other in ((bob, ada), (carl, ada), (bob, carl)):
            await one.device.links.connect(other.device.id)
        share = Share("0" * 16, read_only, 1.0)
        name = Listed(ada.device.id, "plan", share).document
        ada.cells(name)["a"] = "ada"
        ada.shares.publish("plan", share)
        for one in (bob, carl):
            await until(one.shares.all)
            await one.documents.fetch(name, ada.device.id)
            assert one.says(name) == {"a": "ada"}
        yield ada, bob, carl, name


async def test_a_third_member_refuses_what_a_reader_pushes(tmp_path):
    async with shared(tmp_path, read_only=True) as (ada, bob, carl, name):
        bob.cells(name)["a"] = "bob"
        edit = bob.documents.open(name).doc.get_update()
        link = await bob.device.links.connect(carl.device.id)
        for update in (edit, b""):  # also an edit that is to be asked for
            with pytest.raises(Refused, match="'plan' may only be read"):
                await link.request(PushUpdate(name, update))
        ada.cells(name)["b"] = "ada"
        await until(lambda: "b" in carl.says(name))
        assert carl.says(name) == {"a": "ada", "b": "ada"}


async def test_a_third_member_asks_a_reader_for_nothing_when_they_meet(tmp_path):
    async with shared(tmp_path, read_only=True) as (ada, bob, carl, name):
        for one in (bob, carl):
            await one.device.links.upkeep.stop()
        for link in bob.device.links.links():
            link.close(PeerUnreachable("The cable is pulled."))
        await until(lambda: not bob.device.links.links() and not carl.device.links.open_link(bob.device.id))
        bob.cells(name)["a"] = "bob"
        bob.cells("shared/plan")["a"] = "bob"
        await bob.device.links.connect(carl.device.id)
        await until(lambda: says(carl.documents) == {"a": "bob"})  # which is asked for after the notebook
        assert carl.says(name) == ada.says(name) == {"a": "ada"}


async def test_a_third_member_takes_the_same_where_others_may_edit(tmp_path):
    async with shared(tmp_path, read_only=False) as (ada, bob, carl, name):
        await ada.device.stop()
        bob.cells(name)["a"] = "bob"
        await until(lambda: carl.says(name) == {"a": "bob"})
