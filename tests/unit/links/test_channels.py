"""Channels: byte streams between members that outlive links, lead to ports, and pass through a third member."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
from support.linked import Echo, Peer, raw
from support.services import DATA, echo, service, talk, unreachable
from support.swarms import devices, until

from ainet.links.channel import WINDOW, Channel
from ainet.links.frames import (
    ChannelAck,
    ChannelData,
    ChannelEnd,
    ChannelReset,
    ChannelResume,
    OpenChannel,
    ToNode,
    ToPort,
    encode_frame,
    read_frame,
)
from ainet.timing import Timing
from ainet.wire.address import split_address


async def never(reader, writer):
    await asyncio.sleep(3600)


def cut_links(*devices):
    for device in devices:
        for link in device.links.links():
            link.transport.cut()


async def test_a_channel_carries_a_connection_to_an_exposed_port(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone), service(echo) as port:
        await phone.links.connect(desk.id)
        desk.links.channels.expose("127.0.0.1", port)
        channel = phone.links.channels.open(desk.id, ToPort(port))
        assert await talk(channel, DATA) == DATA
        await channel.wait_closed()
        await until(lambda: not phone.links.channels.count(desk.id) and not desk.links.channels.count(phone.id))


async def test_a_port_that_is_not_exposed_is_refused(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone), service(echo) as port:
        await phone.links.connect(desk.id)
        with pytest.raises(ConnectionResetError, match=f"Port {port} of this device is not open to members"):
            await phone.links.channels.open(desk.id, ToPort(port)).read()
        desk.links.channels.expose("127.0.0.1", port)
        desk.links.channels.conceal(port)
        with pytest.raises(ConnectionResetError, match="not open to members"):
            await phone.links.channels.open(desk.id, ToPort(port)).read()


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_lost_or_doubled_when_links_are_cut_again_and_again(tmp_path, seed):
    chance = random.Random(seed)
    async with devices(tmp_path, "desk", "phone") as (desk, phone), service(echo) as port:
        await phone.links.connect(desk.id)
        desk.links.channels.expose("127.0.0.1", port)
        several = [phone.links.channels.open(desk.id, ToPort(port)) for _ in range(3)]
        talking = asyncio.gather(*(talk(channel, DATA) for channel in several))
        for _ in range(5):
            seen = several[0].bytes_received
            await until(lambda seen=seen: several[0].bytes_received > seen + 100_000 or several[0].closed)
            cut_links(chance.choice([desk, phone]))
            if chance.random() < 0.5:
                await until(lambda: not phone.links.links())
                await phone.links.dial_anew(desk.id)
        assert await asyncio.wait_for(talking, 30) == [DATA] * 3
        await until(lambda: not phone.links.channels.count(desk.id) and not desk.links.channels.count(phone.id))


async def test_a_new_link_takes_over_while_the_old_one_lives(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone), service(echo) as port:
        old = await phone.links.connect(desk.id)
        desk.links.channels.expose("127.0.0.1", port)
        channel = phone.links.channels.open(desk.id, ToPort(port))
        talking = asyncio.create_task(talk(channel, DATA))
        await until(lambda: channel.bytes_received > 0)
        await phone.links.dial_anew(desk.id)
        assert phone.links.open_link(desk.id) is not old
        old.transport.cut()
        assert await talking == DATA


async def test_an_acknowledgement_that_overtakes_a_resume_does_no_harm(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone), service(echo) as port:
        link = await phone.links.connect(desk.id)
        desk.links.channels.expose("127.0.0.1", port)
        channel = phone.links.channels.open(desk.id, ToPort(port))
        talking = asyncio.create_task(talk(channel, DATA))
        await until(lambda: channel._taken > 100_000)
        channel.receive(link, ChannelResume(channel.number, 1000))  # said long ago, on a slower link
        assert await talking == DATA


async def test_a_channel_without_a_link_for_too_long_ends_with_words(tmp_path):
    async with devices(tmp_path, "desk", "phone", timing=Timing(resume=0.3)) as (desk, phone), service(echo) as port:
        await phone.links.connect(desk.id)
        desk.links.channels.expose("127.0.0.1", port)
        channel = phone.links.channels.open(desk.id, ToPort(port))
        channel.write(b"hello")
        assert await channel.read() == b"hello"
        await desk.stop()
        with pytest.raises(ConnectionResetError, match=r"no connection for 0\.3 seconds|was stopped"):
            await channel.read()


async def test_a_restarted_peer_knows_nothing_of_old_channels(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone), service(echo) as port:
        await phone.links.connect(desk.id)
        desk.links.channels.expose("127.0.0.1", port)
        channel = phone.links.channels.open(desk.id, ToPort(port))
        channel.write(b"hello")
        assert await channel.read() == b"hello"
        desk.links.channels._channels.clear()  # as a crash would
        cut_links(desk)
        with pytest.raises(ConnectionResetError, match="knows nothing of this channel"):
            await channel.read()


async def test_a_reader_that_does_not_read_stops_the_sender(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone), service(never) as port:
        await phone.links.connect(desk.id)
        desk.links.channels.expose("127.0.0.1", port)
        channel = phone.links.channels.open(desk.id, ToPort(port))

        async def flood():
            while True:
                channel.write(bytes(100_000))
                await channel.drain()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flood(), 3)
        assert channel.backlog < WINDOW + 200_000
        channel.cut()
        await until(lambda: not desk.links.channels.count(phone.id))


@pytest.mark.parametrize(
    "frames",
    [
        [ChannelData(7, 5, b"x")],
        [ChannelData(7, 0, b"abc"), ChannelEnd(7, 2)],
        [ChannelEnd(7, 0), ChannelData(7, 0, b"more")],
        [ChannelAck(7, 10**9)],
        [ChannelResume(7, 10**9)],
        [ChannelData(7, i * 60_000, bytes(60_000)) for i in range(400)],
    ],
    ids=["gap", "short-end", "after-the-end", "ack-of-nothing", "resume-of-nothing", "over-the-window"],
)
async def test_frames_that_make_no_sense_end_their_channel_only(tmp_path, frames):
    async with raw(tmp_path) as (desk, phone, stream), service(never) as port:
        desk.links.channels.expose("127.0.0.1", port)
        stream.write(encode_frame(OpenChannel(7, ToPort(port))))
        await until(lambda: desk.links.channels.count(phone.id))
        for frame in frames:
            stream.write(encode_frame(frame))
        await until(lambda: not desk.links.channels.count(phone.id))
        while not isinstance(frame := await read_frame(stream), ChannelReset):
            pass
        assert frame.code in {"protocol", "unreachable"}
        assert desk.links.open_link(phone.id)


async def test_a_forwarder_makes_a_port_of_a_member_one_of_this_device(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone), service(echo) as port:
        await phone.links.connect(desk.id)
        desk.links.channels.expose("127.0.0.1", port)
        forwarders = phone.links.forwarders
        host, local = await forwarders.forward(desk.id, port)
        assert local != port
        assert (host, local) == await forwarders.forward(desk.id, port)
        reader, writer = await asyncio.open_connection(host, local)
        writer.write(DATA[:100_000])
        assert await reader.readexactly(100_000) == DATA[:100_000]
        cut_links(desk)
        writer.write(b"after the cut")
        assert await reader.readexactly(13) == b"after the cut"
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


async def test_the_direct_way_is_preferred_where_it_exists(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone), service(echo) as port:
        await phone.links.connect(desk.id)
        forwarders = phone.links.forwarders
        assert await forwarders.route(desk.id, "127.0.0.1", port) == ("127.0.0.1", port)
        host, local = await forwarders.route(desk.id, "192.0.2.7", port)  # an address where nothing answers
        assert (host, local != port) == ("127.0.0.1", True)
        assert await forwarders.route(phone.id, "192.0.2.7", port) == ("192.0.2.7", port)


# Relays


@contextlib.asynccontextmanager
async def triangle(tmp_path, **settings):
    """Three members of which the last two reach each other through the first one only."""
    async with devices(tmp_path, "desk", "phone", "tablet", **settings) as (desk, phone, tablet):
        unreachable(phone, tablet)
        unreachable(tablet, phone)
        await phone.links.connect(desk.id)
        await tablet.links.connect(desk.id)
        for device, other in ((phone, tablet), (tablet, phone)):
            for link in device.links.links():
                if link.peer_id == other.id:
                    link.transport.cut()
        await until(lambda: desk.links.open_link(phone.id) and desk.links.open_link(tablet.id))
        yield desk, phone, tablet


async def test_a_member_is_reached_through_another_one_and_proves_itself_end_to_end(tmp_path):
    async with triangle(tmp_path) as (desk, phone, tablet):
        Peer(tablet)
        link = await phone.links.connect(tablet.id)
        assert (link.peer_id, link.relay, link.path) == (tablet.id, desk.id, "through desk")
        assert (await link.request(Echo(b"hello"))).data == b"hello"
        back = tablet.links.open_link(phone.id)
        assert (back.relay, back.path) == (desk.id, "through desk")


async def test_a_relay_tells_how_much_it_hands_on_and_for_whom(tmp_path):
    async with triangle(tmp_path) as (desk, phone, tablet), service(echo) as port:
        handed_on = []
        desk.links.channels.relayed.connect(lambda peer, size: handed_on.append((peer, size)))
        tablet.links.channels.expose("127.0.0.1", port)
        await phone.links.connect(tablet.id)
        assert await talk(phone.links.channels.open(tablet.id, ToPort(port)), DATA) == DATA
        assert {peer for peer, _ in handed_on} == {phone.id}
        assert 2 * len(DATA) < sum(size for _, size in handed_on) < 3 * len(DATA)


async def test_a_channel_goes_on_when_its_relay_fails_and_a_direct_way_appears(tmp_path):
    async with triangle(tmp_path) as (desk, phone, tablet), service(echo) as port:
        tablet.links.channels.expose("127.0.0.1", port)
        await phone.links.connect(tablet.id)
        channel = phone.links.channels.open(tablet.id, ToPort(port))
        talking = asyncio.create_task(talk(channel, DATA))
        await until(lambda: channel.bytes_received > 0)
        await desk.stop()
        await phone.links.connect_address(tablet.links.address)
        assert await talking == DATA
        assert phone.links.open_link(tablet.id).relay is None


async def test_a_direct_link_replaces_a_relayed_one_in_use(tmp_path):
    async with triangle(tmp_path) as (_, phone, tablet):
        assert (await phone.links.connect(tablet.id)).relay
        del phone.links.book.addresses  # the way is free
        await phone.links.dial_anew(tablet.id)
        assert phone.links.open_link(tablet.id).relay is None
        assert split_address(phone.links.open_link(tablet.id).path)


async def test_nobody_relays_to_whom_it_reaches_only_through_others(tmp_path):
    async with triangle(tmp_path) as (desk, phone, tablet):
        await phone.links.connect(tablet.id)
        channel = desk.links.channels.open(phone.id, ToNode(tablet.id))
        with pytest.raises(ConnectionResetError, match="no link of its own"):
            await channel.read()


# A relay that is an enemy


@pytest.mark.parametrize("enemy", ["tampers", "drops", "replays"])
async def test_a_hostile_relay_can_end_a_link_but_change_nothing(tmp_path, monkeypatch, enemy):
    relayed = 0

    async def pass_on(source, target):
        nonlocal relayed
        while data := await source.read():
            relayed += len(data)
            if relayed > 600_000 and target.peer_id == phone.id and not done.is_set():
                done.set()
                if enemy == "tampers":
                    data = data[:-1] + bytes([data[-1] ^ 1])
                elif enemy == "drops":
                    continue
                else:
                    data += data
            target.write(data)
            await target.drain()
        target.write_eof()

    done = asyncio.Event()
    async with triangle(tmp_path) as (desk, phone, tablet), service(echo) as port:
        monkeypatch.setattr("ainet.links.channels._pass_on", pass_on_unless_local(pass_on, desk))
        tablet.links.channels.expose("127.0.0.1", port)
        link = await phone.links.connect(tablet.id)
        channel = phone.links.channels.open(tablet.id, ToPort(port))
        assert await asyncio.wait_for(talk(channel, DATA), 60) == DATA
        assert done.is_set()
        assert link.closed.is_set()


def pass_on_unless_local(enemy, relay):
    """Let only what `relay` passes on between two channels be the enemy's."""
    from ainet.links import channels as real

    honest = real._pass_on

    async def pass_on(source, target, passed):
        both = isinstance(source, Channel) and isinstance(target, Channel)
        await (enemy(source, target) if both else honest(source, target, passed))

    return pass_on
