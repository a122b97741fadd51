import asyncio
import contextlib
import logging
import random
import ssl

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.effort import examples
from support.linked import Blob, Count, Echo, Peer, Progress, answer, dial, greeted_as, hello_of, raw, two
from support.swarms import devices, until

from ainet.errors import AinetError, PeerUnreachable, ProtocolError, Refused
from ainet.identity.credentials import client_context, pairing_client_context
from ainet.identity.identity import Identity
from ainet.links.frames import (
    MAX_FRAME,
    PROTOCOL,
    WINDOW,
    Call,
    ChannelData,
    ChannelReset,
    Goodbye,
    Hello,
    Item,
    OpenChannel,
    Ping,
    Reply,
    RosterUpdate,
    ToNode,
    ToPort,
    Welcome,
    decode_frame,
    encode_frame,
    expect,
)
from ainet.timing import Timing
from ainet.wire.address import split_address

# Who is not a member


async def test_a_strangers_certificate_is_refused_by_both_ends(tmp_path, caplog):
    stranger = Identity.open(tmp_path / "stranger", "stranger")
    async with devices(tmp_path, "desk") as (desk,):
        stream = await dial(desk.links.address, client_context(stranger.credentials()))
        with pytest.raises(Refused, match=r"desk showed a certificate that is not of this swarm\. Is it a member"):
            await stream.handshake()
        await stream.close()

        context = client_context(stranger.credentials())
        context.verify_mode = ssl.CERT_NONE  # does not mind whom it talks to
        stream = await dial(desk.links.address, context)
        await stream.handshake()
        with pytest.raises(Refused, match="desk refused: this device's certificate is not of its swarm"):
            await expect(stream, Hello)
        await stream.close()
        assert "refused: The other device refused: this device's certificate is not of its swarm" in caplog.text
        await until(lambda: "refused: The other device showed a certificate that is not of this swarm" in caplog.text)
        assert not desk.links.links()


async def test_no_certificate_is_refused(tmp_path, caplog):
    async with devices(tmp_path, "desk") as (desk,):
        stream = await dial(desk.links.address, pairing_client_context())
        await stream.handshake()
        with pytest.raises(Refused, match="desk demands a certificate of its swarm"):
            await expect(stream, Hello)
        await stream.close()
        await until(lambda: "showed no certificate. Only members of the swarm may connect" in caplog.text)


async def test_a_plain_client_is_told_and_logged(tmp_path, caplog):
    async with devices(tmp_path, "desk") as (desk,):
        reader, writer = await asyncio.open_connection(*split_address(desk.links.address))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b"This port speaks TLS 1.3 and is for members of an ainet swarm only.\n"
        writer.close()
        await writer.wait_closed()
        await until(lambda: "does not speak TLS" in caplog.text)


async def test_a_silent_client_is_told_and_logged(tmp_path, caplog):
    async with devices(tmp_path, "desk", timing=Timing(greeting=0.1)) as (desk,):
        reader, writer = await asyncio.open_connection(*split_address(desk.links.address))
        assert b"speaks TLS 1.3" in await reader.read()
        writer.close()
        await writer.wait_closed()
        await until(lambda: "did not say who it is within 0.1 seconds" in caplog.text)


async def test_many_silent_clients_are_turned_away_and_members_still_served(tmp_path, caplog):
    async with two(tmp_path) as (desk, _, _, link):
        clients = [await asyncio.open_connection(*split_address(desk.links.address)) for _ in range(100)]
        await until(lambda: "Too many devices connect at once" in caplog.text)
        assert await link.request(Echo(b"x")) == Blob(b"x")
        for _, writer in clients:
            writer.close()
        for _, writer in clients:
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await until(lambda: not desk.links.door.busy)


# What a member could send


async def test_other_protocol_versions_are_refused_with_words(tmp_path, caplog):
    async with raw(tmp_path, greeted=False) as (_, phone, stream):
        stream.write(encode_frame(hello_of(phone, protocol=PROTOCOL + 1, oldest=PROTOCOL + 1)))
        await expect(stream, Hello)
        with pytest.raises(Refused, match=r"speak different protocols \(1 and 2\): update ainet on the device that ph"):
            await expect(stream, Welcome)
        await until(lambda: "speak different protocols" in caplog.text)


async def test_a_newer_peer_that_still_knows_the_old_protocol_is_accepted(tmp_path):
    async with raw(tmp_path, greeted=False) as (_, phone, stream):
        stream.write(encode_frame(hello_of(phone, protocol=PROTOCOL + 7, oldest=PROTOCOL)))
        await expect(stream, Hello)
        await expect(stream, Welcome)


async def test_another_name_than_the_certificates_is_refused(tmp_path):
    async with raw(tmp_path, greeted=False) as (desk, phone, stream):
        stream.write(encode_frame(hello_of(phone, id=desk.id)))
        await expect(stream, Hello)
        with pytest.raises(ProtocolError, match="named itself differently from its certificate"):
            await expect(stream, Welcome)


async def test_a_forged_roster_is_refused(tmp_path):
    stranger = Identity.open(tmp_path / "stranger", "stranger")
    async with raw(tmp_path, greeted=False) as (desk, phone, stream):
        before = desk.identity.roster
        stream.write(encode_frame(hello_of(phone, roster_serial=1000, roster_digest=b"x" * 32)))
        stream.write(encode_frame(RosterUpdate(stranger.signed_roster)))
        await expect(stream, Hello)
        with pytest.raises(Refused, match="The roster is not signed by this swarm's CA"):
            await expect(stream, Welcome)
        assert desk.identity.roster == before


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((MAX_FRAME + 1).to_bytes(4, "big"), "announced a message of 4,194,305 bytes; 4,194,304 are allowed"),
        (b"\xff\xff\xff\xff", "announced a message of 4,294,967,295 bytes"),
        (b"\0\0\0\1\xc1", "sent something that is no message"),
        (b"\0\0\0\0", "sent something that is no message"),
        (encode_frame(Welcome()), "sent Welcome in the middle of a link"),
        (encode_frame(Call(1, "Wait", msgspec.Raw(b"\x80"))) * 2, "used the number of a request twice"),
    ],
)
async def test_what_is_no_allowed_message_closes_the_link_with_words(tmp_path, caplog, data, words):
    async with raw(tmp_path) as (desk, _, stream):
        stream.write(data)
        frame = await answer(stream)
        assert isinstance(frame, Goodbye)
        assert words in frame.message
        assert words in caplog.text
        await until(lambda: not desk.links.links())


async def test_before_the_greeting_only_short_messages_are_read(tmp_path, caplog):
    async with raw(tmp_path, greeted=False) as (_, _, stream):
        stream.write((16 * 1024 + 1).to_bytes(4, "big"))
        await expect(stream, Hello)
        with pytest.raises(ProtocolError, match="message of 16,385 bytes; 16,384 are allowed here"):
            await expect(stream, Welcome)


async def test_a_restarted_peer_replaces_its_old_links_and_another_link_does_not(tmp_path):
    async with raw(tmp_path) as (desk, phone, _):
        (link,) = desk.links.links()
        second = await greeted_as(desk, phone, "i")
        await until(lambda: len(desk.links.links()) == 2)
        third = await greeted_as(desk, phone, "j")
        await until(link.closed.is_set)
        assert link.error.message == "phone was restarted."
        assert len(desk.links.links()) == 1
        for stream in (second, third):
            await stream.abort()


async def test_progress_beyond_what_was_allowed_closes_the_link(tmp_path):
    async with raw(tmp_path) as (desk, phone, stream):
        link = desk.links.open_link(phone.id)
        items = link.stream(Count(1))
        task = asyncio.create_task(anext(items))
        call = await answer(stream)
        body = msgspec.Raw(msgspec.msgpack.encode(Progress(1)))
        assert await sent(stream, task, Item(call.id, body)) == Progress(1)
        for _ in range(2 * WINDOW):
            stream.write(encode_frame(Item(call.id, body)))
        await until(link.closed.is_set)
        assert "sent more progress than it was allowed to" in link.error.message
        await items.aclose()


async def sent(stream, task, frame):
    stream.write(encode_frame(frame))
    return await task


async def test_a_peer_that_does_not_read_is_cut(tmp_path):
    async with raw(tmp_path) as (desk, phone, stream):
        link = desk.links.open_link(phone.id)
        call = encode_frame(Call(0, "x" * 64, msgspec.Raw(b"\x80")))
        with contextlib.suppress(PeerUnreachable):
            for _ in range(2000):  # each is answered with an error that is not read
                stream.write(call * 100)
                await stream.drain()
                if link.closed.is_set():
                    break
        await until(link.closed.is_set)


async def test_answers_that_nobody_asked_for_are_ignored(tmp_path):
    async with raw(tmp_path) as (_, _, stream):
        stream.write(encode_frame(Reply(77, msgspec.Raw(b"\xc0"))))
        body = msgspec.Raw(msgspec.msgpack.encode(Echo(b"x")))
        stream.write(encode_frame(Call(1, "Echo", body)))
        frame = await answer(stream)
        assert (frame.id, msgspec.msgpack.decode(frame.body, type=Blob)) == (1, Blob(b"x"))


frames = st.sampled_from(
    [
        Hello(1, "a" * 52, "n", ("h:1",), "i", 1, b"d"),
        OpenChannel(1, ToPort(80)),
        OpenChannel(1, ToNode("a" * 52)),
        ChannelData(1, 0, b"data"),
        ChannelReset(1, "refused", "no"),
        Ping(),
        Call(1, "Echo", msgspec.Raw(b"\x81\xa4data\xc4\x01x")),
        Goodbye("refused", "because"),
        Reply(3, msgspec.Raw(b"\xc0")),
    ]
)


@settings(max_examples=examples(3000))
@given(st.binary(max_size=300))
@example(b"\x91" * 100_000)
@example(b"\x93\x07\x01" + b"\x91" * 100_000)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x93\x0a\x01" + b"\x81\xa1x" * 50_000)
def test_any_bytes_are_a_frame_or_a_protocol_error(data):
    with contextlib.suppress(ProtocolError):
        decode_frame(data)


@settings(max_examples=examples(3000))
@given(frames, st.data())
def test_damaged_frames_are_frames_or_protocol_errors(frame, data):
    body = bytearray(encode_frame(frame)[4:])
    assert decode_frame(bytes(body)) == frame
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        decode_frame(bytes(body))


async def test_a_member_that_sends_nonsense_harms_only_its_own_link(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    chance = random.Random(1)
    async with devices(tmp_path, "desk", "phone", "tablet") as (desk, phone, tablet):
        Peer(desk)
        steady = await tablet.links.connect(desk.id)
        await phone.stop()
        for number in range(60):
            stream = await dial(desk.links.address, client_context(phone.identity.credentials()))
            with contextlib.suppress(AinetError):
                await stream.handshake()
                if number % 2:
                    stream.write(encode_frame(hello_of(phone)))
                    stream.write(encode_frame(Welcome()))
                body = chance.randbytes(chance.randrange(60))
                if number % 3:
                    body = bytes([0x93, chance.randrange(24), chance.randrange(3)]) + body
                stream.write(len(body).to_bytes(4, "big") + body)
                await stream.drain()
            await stream.abort()
        assert await steady.request(Echo(b"x")) == Blob(b"x")
        assert "Traceback" not in caplog.text
