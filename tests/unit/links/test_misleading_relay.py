"""A relay that leads to another member than the one that was dialled: only the dialled node id counts."""

from __future__ import annotations

import contextlib
import logging

import pytest
from support.linked import Echo, Peer
from support.services import unreachable
from support.swarms import devices, until

from ainet.errors import PeerUnreachable
from ainet.links.frames import ToNode


@contextlib.asynccontextmanager
async def behind_a_relay(tmp_path):
    """Four members: the second reaches the last two through the first one only, and only when it is asked to."""
    async with devices(tmp_path, "desk", "phone", "tablet", "attic") as found:
        desk, phone, *others = found
        for device in found:
            await device.links.upkeep.stop()
        await until(lambda: not any(device.links._dialler._dialling for device in found))
        for other in others:
            unreachable(other, phone)
        for device in (phone, *others):
            await device.links.connect(desk.id)
        for link in phone.links.links():
            if link.peer_id != desk.id:
                link.close(PeerUnreachable("The cable is pulled."))
        await until(lambda: not any(other.links.open_link(phone.id) for other in others))
        yield found


async def test_a_relay_that_leads_elsewhere_is_found_out(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    async with behind_a_relay(tmp_path) as (desk, phone, tablet, attic):
        Peer(tablet)
        lead = desk.links.channels._lead

        def mislead(channel, link, target):
            lead(channel, link, ToNode(attic.id) if target == ToNode(tablet.id) else target)

        monkeypatch.setattr(desk.links.channels, "_lead", mislead)
        with pytest.raises(PeerUnreachable, match="tablet"):
            await phone.links.connect(tablet.id)
        refused = "A connection from through desk came to nothing: Another device answers there than tablet."
        await until(lambda: (attic.log.name, logging.INFO, refused) in caplog.record_tuples)
        assert {link.peer_id for link in phone.links.links()} == {desk.id}
        assert not any(other.links.open_link(phone.id) for other in (tablet, attic))
        monkeypatch.undo()
        link = await phone.links.connect(tablet.id)
        assert (link.peer_id, link.relay) == (tablet.id, desk.id)
        assert (await link.request(Echo(b"hello"))).data == b"hello"
