"""What enemies could send, many times over: frames, handshakes, log entries, updates. Each ends in words."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
from pycrdt import Array, Doc, Map, Text
from support.effort import examples
from support.linked import Echo, Peer, hello_of
from support.swarms import devices, until

from ainet.documents.document import Document
from ainet.documents.store import DocumentStore
from ainet.errors import AinetError, ProtocolError, Refused
from ainet.links.frames import (
    Call,
    ChannelAck,
    ChannelData,
    ChannelEnd,
    ChannelResume,
    Hint,
    OpenChannel,
    Ping,
    RosterUpdate,
    ToLink,
    ToNode,
    ToPort,
    Welcome,
    decode_frame,
    encode_frame,
)
from ainet.swarm.feed import Entry
from ainet.wire.address import split_address

ID = "a" * 52


def mutations(samples, count, seed=7):
    """Yield `count` damaged copies of the samples: bits flipped, pieces cut out, doubled, mixed and made up."""
    chance = random.Random(seed)
    for i in range(count):
        data = bytearray(samples[i % len(samples)])
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            kind, at = chance.randrange(5), chance.randrange(len(data) + 1)
            if kind == 0 and data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            elif kind == 1:
                del data[at : at + chance.randrange(1, 9)]
            elif kind == 2:
                data[at:at] = data[at : at + chance.randrange(1, 9)]
            elif kind == 3:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
            else:
                other = chance.choice(samples)
                data[at:] = other[chance.randrange(len(other) + 1) :]
        yield bytes(data)


async def test_ten_thousand_damaged_frames(tmp_path):
    async with devices(tmp_path, "desk") as (desk,):
        frames = [
            hello_of(desk),
            Welcome((Hint(ID, "192.168.1.2:4711", 1.0),)),
            RosterUpdate(desk.identity.signed_roster),
            Ping(5),
            Call(1, "Echo", b"\x80"),
            OpenChannel(1, ToPort(80)),
            OpenChannel(2, ToNode(ID)),
            OpenChannel(3, ToLink(ID)),
            ChannelData(1, 0, b"some data"),
            ChannelAck(1, 9),
            ChannelEnd(1, 9),
            ChannelResume(1, 9),
        ]
        samples = [encode_frame(frame)[4:] for frame in frames]
        outcomes = {"frame": 0, "refused": 0}
        for data in mutations(samples, examples(10_000)):
            try:
                frame = decode_frame(data)
            except ProtocolError:
                outcomes["refused"] += 1
                continue
            outcomes["frame"] += 1
            if isinstance(frame, RosterUpdate):
                with contextlib.suppress(Refused):
                    assert not desk.identity.apply(frame.roster)
        assert min(outcomes.values()) > examples(500)  # the damage is neither always fatal nor never


def test_ten_thousand_damaged_updates(tmp_path):
    source = Doc()
    samples = []
    subscription = source.observe(lambda event: samples.append(event.update))
    source.get("map", type=Map)["a"] = {"b": [1, 2.5, None, "text"]}
    text = source.get("text", type=Text)
    text += "some words and ☂"
    del text[2:5]
    source.get("list", type=Array).extend([1, "two", {"three": 3}])
    samples.append(source.get_update())
    source.unobserve(subscription)
    store = DocumentStore(tmp_path / "documents.sqlite")
    store._file.execute("PRAGMA synchronous = OFF")
    document = Document("shared/plan", store, lambda *_: None)
    document.apply(samples[-1])
    refused = 0
    for data in mutations(samples, examples(10_000)):
        before = document.state
        try:
            document.apply(data)
        except Refused:
            refused += 1
            assert document.state == before
        if document.size > 500_000:
            document.compact()
    assert refused > examples(500)
    content = document.doc.get("map", type=Map).to_py()
    document.close()
    again = Document("shared/plan", store, lambda *_: None)
    assert again.doc.get("map", type=Map).to_py() == content
    again.close()
    store.close()


def test_a_thousand_damaged_log_entries(tmp_path):
    from support.authors import Author

    author = Author()
    samples = []
    for i in range(5):
        entry = author.say({"memory": i, "models": ["a", "b"]})
        samples.append(entry.body)
    genuine = set(samples)
    signature = author.entries[-1].signature
    for data in mutations(samples, 1000):
        if data not in genuine:
            with pytest.raises(Refused):
                Entry(data, signature).open()


async def test_hundreds_of_strange_beginnings_leave_a_node_well(tmp_path):
    hello = bytes.fromhex("16030100c8010000c40303") + bytes(150)
    samples = [
        hello,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        bytes(60),
        b"\x16\x03\x01\xff\xff" * 9,
    ]
    async with devices(tmp_path, "desk", "phone") as (desk, phone):
        Peer(desk)

        async def begin(data):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(*split_address(desk.links.address))
                writer.write(data)
                if writer.can_write_eof():
                    writer.write_eof()
                await asyncio.wait_for(reader.read(), 15)
                writer.close()
                await writer.wait_closed()

        begun = list(mutations(samples, 400))
        for i in range(0, len(begun), 20):
            await asyncio.gather(*(begin(data) for data in begun[i : i + 20]))
        await until(lambda: not desk.links.door.busy)
        link = await phone.links.connect(desk.id)
        assert (await link.request(Echo(b"well"))).data == b"well"


async def test_hundreds_of_strange_requests_leave_a_link_well(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone):
        Peer(desk)
        link = await phone.links.connect(desk.id)
        handled = list(desk.links.table._handlers)
        chance = random.Random(3)
        for i in range(600):
            kind = chance.choice([*handled, "Nothing", ""])
            stream = link.transport
            stream.write(encode_frame(Call(10_000 + i, kind, b"\xc1" if i % 3 else b"\x80")))
            await stream.drain()
        with contextlib.suppress(AinetError):
            assert (await link.request(Echo(b"well"))).data == b"well"
        link = await phone.links.connect(desk.id)
        assert (await link.request(Echo(b"well"))).data == b"well"
