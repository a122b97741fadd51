import asyncio
import contextlib
import logging
import random
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from swarms import Device, devices, until

from ainet.errors import AinetError, Busy, NotFound, PeerUnreachable, ProtocolError, Refused, UsageError
from ainet.identity import Identity, client_context
from ainet.identity.credentials import pairing_client_context
from ainet.network import Request
from ainet.network.addresses import split_address
from ainet.network.frames import (
    MAX_FRAME,
    PROTOCOL,
    WINDOW,
    Call,
    Goodbye,
    Hello,
    Hint,
    Item,
    Ping,
    Pong,
    Reply,
    RosterUpdate,
    Welcome,
    decode_frame,
    encode_frame,
    expect,
    read_frame,
)
from ainet.network.link import MAX_CALLS
from ainet.network.stream import CHUNK, SecureStream


class Blob(msgspec.Struct):
    data: bytes


class Progress(msgspec.Struct):
    done: int


class Echo(Request, frozen=True):
    reply = Blob
    data: Annotated[bytes, msgspec.Meta(max_length=8 * 1024 * 1024)]


class Count(Request, frozen=True):
    reply = Blob
    progress = Progress
    to: int


class Wait(Request, frozen=True):
    """Answered when `Peer.release` is set."""


class Raise(Request, frozen=True):
    what: str


class Peer:
    """Answers, and remembers what happened to it."""

    def __init__(self, device: Device) -> None:
        self.waiting = 0
        self.cancelled = 0
        self.counted = 0
        self.ended = 0
        self.release = asyncio.Event()
        for kind, handler in ((Echo, self.echo), (Count, self.count), (Wait, self.wait), (Raise, self.fail)):
            device.links.handle(kind, handler)

    async def echo(self, link, request):
        return Blob(request.data)

    async def count(self, link, request):
        try:
            for number in range(request.to):
                self.counted += 1
                yield Progress(number)
            yield Blob(b"done")
        finally:
            self.ended += 1

    async def wait(self, link, request):
        self.waiting += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1

    async def fail(self, link, request):
        if request.what == "error":
            msg = "No model is called so."
            raise NotFound(msg, model="x", nothing=None)
        if request.what == "odd":
            error = NotFound("These details are odd.")
            error.details = {"self": 1, "message": 2}
            raise error
        if request.what == "details":
            msg = "These details cannot travel."
            raise NotFound(msg, thing=object())
        if request.what == "long":
            raise NotFound("x" * 100_000)
        if request.what == "bug":
            msg = "secret internals"
            raise RuntimeError(msg)
        if request.what == "cancelled":
            raise asyncio.CancelledError
        return Blob(b"not what was promised")


@contextlib.asynccontextmanager
async def two(tmp_path, **settings):
    """Two members with one link between them: yields the devices, the first one's answers, the second one's link."""
    async with devices(tmp_path, "desk", "phone", **settings) as (desk, phone):
        peer = Peer(desk)
        yield desk, phone, peer, await phone.links.connect(desk.id)


# Requests


async def test_requests_go_both_ways_over_one_link(tmp_path):
    async with two(tmp_path) as (desk, phone, _, link):
        Peer(phone)
        await until(lambda: desk.links.linked(phone.id))
        back = await desk.links.connect(phone.id)
        assert (link.peer_id, link.peer_name, back.peer_id, back.peer_name) == (desk.id, "desk", phone.id, "phone")
        replies = await asyncio.gather(*(side.request(Echo(bytes([n]))) for n in range(20) for side in (link, back)))
        assert [reply.data for reply in replies] == [bytes([n]) for n in range(20) for _ in range(2)]
        assert len(desk.links.links()) == len(phone.links.links()) == 1


async def test_progress_comes_before_the_reply(tmp_path):
    async with two(tmp_path) as (_, _, peer, link):
        items = [item async for item in link.stream(Count(5))]
        assert items == [*(Progress(n) for n in range(5)), Blob(b"done")]
        assert await link.request(Count(3)) == Blob(b"done")
        assert peer.ended == 2


async def test_a_request_without_an_answer_returns_none(tmp_path):
    async with two(tmp_path) as (_, _, peer, link):
        peer.release.set()
        assert await link.request(Wait()) is None
        assert [item async for item in link.stream(Wait())] == []


async def test_progress_waits_for_the_asker(tmp_path):
    async with two(tmp_path) as (_, _, peer, link):
        async with contextlib.aclosing(link.stream(Count(10_000))) as items:
            assert await anext(items) == Progress(0)
            await link.request(Echo(b"the link itself is free meanwhile"))
            await link.request(Echo(b""))
            assert peer.counted <= WINDOW + 1
            seen = 1
            async for _ in items:
                seen += 1
        assert seen == 10_001


async def test_leaving_the_loop_cancels_the_request(tmp_path):
    async with two(tmp_path) as (desk, _, peer, link):
        async with contextlib.aclosing(link.stream(Count(10_000))) as items:
            async for item in items:
                if item == Progress(3):
                    break
        (back,) = desk.links.links()
        await until(lambda: not back._serving)
        assert peer.ended == 1
        assert peer.counted < 100
        assert not link._calls


async def test_cancelling_a_request_reaches_the_handler(tmp_path):
    async with two(tmp_path) as (desk, _, peer, link):
        task = asyncio.create_task(link.request(Wait(), timeout=None))
        await until(lambda: peer.waiting)
        task.cancel()
        await until(lambda: peer.cancelled)
        with pytest.raises(asyncio.CancelledError):
            await task
        (back,) = desk.links.links()
        await until(lambda: not back._serving)
        assert await link.request(Echo(b"x")) == Blob(b"x")


async def test_an_answer_that_takes_too_long_is_given_up(tmp_path):
    async with two(tmp_path) as (_, _, peer, link):
        with pytest.raises(PeerUnreachable, match=r"desk did not answer Wait within 0.05 seconds"):
            await link.request(Wait(), timeout=0.05)
        await until(lambda: peer.cancelled)


async def test_errors_travel_with_their_class_and_details(tmp_path):
    async with two(tmp_path) as (_, _, _, link):
        with pytest.raises(NotFound) as caught:
            await link.request(Raise("error"))
        assert (caught.value.message, caught.value.details) == (
            "No model is called so.",
            {"model": "x", "nothing": None},
        )
        with pytest.raises(NotFound, match="These details are odd") as caught:
            await link.request(Raise("odd"))
        assert caught.value.details == {"self": 1, "message": 2}
        with pytest.raises(NotFound, match="These details cannot travel"):
            await link.request(Raise("details"))
        with pytest.raises(NotFound, match=r"^x{2000}$"):
            await link.request(Raise("long"))


async def test_other_exceptions_stay_at_home(tmp_path, caplog):
    async with two(tmp_path) as (_, _, _, link):
        for what in ("bug", "wrong type"):
            with pytest.raises(AinetError) as caught:
                await link.request(Raise(what))
            assert type(caught.value) is AinetError
            assert caught.value.message == "The device failed to do Raise; its log says why."
        assert "secret internals" in caplog.text
        assert "Traceback" in caplog.text
        assert "Blob is not what Raise is answered with" in caplog.text
        with pytest.raises(AinetError, match="The device stopped working on Raise"):
            await link.request(Raise("cancelled"))


async def test_an_unknown_request_is_answered_with_an_error(tmp_path):
    class Fly(Request, frozen=True):
        pass

    async with two(tmp_path) as (_, _, _, link):
        with pytest.raises(ProtocolError, match=r"does not know the request 'Fly'. Is its ainet older"):
            await link.request(Fly())
        assert await link.request(Echo(b"x")) == Blob(b"x")


async def test_fields_of_the_wrong_type_are_answered_with_an_error(tmp_path):
    class Other(Request, frozen=True):
        to: str

    Other.__name__ = "Count"
    async with two(tmp_path) as (_, _, _, link):
        with pytest.raises(ProtocolError, match=r"This is no Count \(Expected `int`, got `str`"):
            await link.request(Other("x"))
        assert not link.closed.is_set()


async def test_an_answer_of_the_wrong_type_is_an_error(tmp_path):
    class Other(Request, frozen=True):
        reply = Progress
        data: bytes = b"x"

    Other.__name__ = "Echo"
    async with two(tmp_path) as (_, _, _, link):
        with pytest.raises(ProtocolError, match=r"desk answered Echo with something else"):
            await link.request(Other())


async def test_a_message_over_the_limit_is_refused_at_both_ends(tmp_path):
    async with two(tmp_path) as (desk, _, _, link):
        with pytest.raises(ProtocolError, match=r"message of [\d,]+ bytes is too large for a peer link"):
            await link.request(Echo(bytes(MAX_FRAME)))

        class Big(Request, frozen=True):
            reply = Blob

        async def big(link, request):
            return Blob(bytes(MAX_FRAME))

        desk.links.handle(Big, big)
        with pytest.raises(ProtocolError, match=r"message of [\d,]+ bytes is too large for a peer link"):
            await link.request(Big())
        largest = bytes(MAX_FRAME - 100)
        assert (await link.request(Echo(largest))).data == largest


async def test_too_many_requests_at_once_are_answered_with_busy(tmp_path):
    async with two(tmp_path) as (_, _, peer, link):
        tasks = [asyncio.create_task(link.request(Wait(), timeout=None)) for _ in range(MAX_CALLS)]
        await until(lambda: peer.waiting == MAX_CALLS)
        with pytest.raises(Busy) as caught:
            await link.request(Echo(b"x"))
        assert caught.value.details["retry_after"] > 0
        peer.release.set()
        await asyncio.gather(*tasks)
        assert await link.request(Echo(b"x")) == Blob(b"x")


async def test_large_answers_do_not_delay_pings(tmp_path):
    async with two(tmp_path, link_keepalive=0.05, link_timeout=0.5) as (_, _, _, link):
        data = bytes(MAX_FRAME - 100)
        for _ in range(4):
            await asyncio.gather(*(link.request(Echo(data)) for _ in range(8)))
        assert not link.closed.is_set()


# The end of a link


async def test_a_lost_link_fails_everything_that_waits(tmp_path):
    async with two(tmp_path) as (desk, _, peer, link):
        closed = []
        link.on_close(closed.append)
        tasks = [asyncio.create_task(link.request(Wait(), timeout=None)) for _ in range(5)]
        await until(lambda: peer.waiting == 5)
        (back,) = desk.links.links()
        back._stream._writer.transport.abort()  # the cable is pulled

        for task in tasks:
            with pytest.raises(PeerUnreachable, match="The link to desk was lost"):
                await asyncio.wait_for(task, 1)
        assert closed == [link]
        await until(lambda: peer.cancelled == 5)
        with pytest.raises(PeerUnreachable, match="The link to desk was lost"):
            await link.request(Echo(b"x"))
        link.on_close(closed.append)
        assert closed == [link, link]


async def test_members_find_each_other_again(tmp_path):
    async with two(tmp_path) as (desk, phone, _, link):
        link._stream._writer.transport.abort()
        await until(link.closed.is_set)
        await until(lambda: phone.links.linked(desk.id) and desk.links.linked(phone.id))
        assert await (await phone.links.connect(desk.id)).request(Echo(b"x")) == Blob(b"x")


async def test_an_orderly_leave_is_known_at_once(tmp_path):
    async with two(tmp_path) as (desk, phone, peer, link):
        task = asyncio.create_task(link.request(Wait(), timeout=None))
        await until(lambda: peer.waiting)
        await desk.stop()
        with pytest.raises(PeerUnreachable, match="desk was stopped"):
            await asyncio.wait_for(task, 1)
        (state,) = [state for state in phone.links.members() if state.name == "desk"]
        assert not state.connected
        assert state.last_seen == pytest.approx(phone.identity.now(), abs=10)
        with pytest.raises(PeerUnreachable, match=r"desk does not answer \(127.*: Connection refused\). Is ainet"):
            await phone.links.connect(desk.id)


@contextlib.asynccontextmanager
async def other_process(tmp_path, desk):
    invitation = await desk.pairing.invite()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("peer_process.py")),
        str(tmp_path / "other"),
        invitation.ticket,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        node_id = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
        yield process, await desk.links.connect(node_id)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 10)
        process._transport.close()


async def test_a_frozen_peer_is_noticed(tmp_path, caplog):
    async with (
        devices(tmp_path, "desk", link_keepalive=0.1, link_timeout=0.5) as (desk,),
        other_process(tmp_path, desk) as (process, link),
    ):
        loop = asyncio.get_running_loop()
        process.send_signal(signal.SIGSTOP)
        began = loop.time()
        with pytest.raises(PeerUnreachable, match=r"other did not answer for \d seconds"):
            await link.request(Echo(b"x"), timeout=None)
        assert 0.4 < loop.time() - began < 5
        assert "The link is closed: other did not answer" in caplog.text
        process.send_signal(signal.SIGCONT)
        await until(lambda: desk.links.linked(link.peer_id))  # thawed, it comes back


async def test_a_killed_peer_is_noticed_at_once(tmp_path):
    async with devices(tmp_path, "desk") as (desk,), other_process(tmp_path, desk) as (process, link):
        process.kill()
        await asyncio.wait_for(link.closed.wait(), 2)


async def test_a_pause_of_ones_own_is_not_the_peers_silence(tmp_path):
    async with two(tmp_path, link_keepalive=0.05, link_timeout=0.5) as (_, _, _, link):
        loop = asyncio.get_running_loop()
        until_then = loop.time() + 1.0
        while loop.time() < until_then:  # the loop, and so both ends here, does not run
            pass
        assert await link.request(Echo(b"x")) == Blob(b"x")


# Dialling


async def test_two_nodes_that_dial_each_other_lose_nothing(tmp_path):
    async with devices(tmp_path, "desk", "phone") as both:
        for _ in range(5):
            for device in both:
                await device.stop()
            for device in both:
                device.open().links.book.keep_only(set())  # or they would dial before they are asked to
                Peer(await device.start())
            desk, phone = both
            for one, other in ((desk, phone), (phone, desk)):
                one.links.learn((Hint(other.id, other.links.address, other.identity.now()),))
            links = await asyncio.gather(
                *(one.links.connect(other.id) for one, other in ((desk, phone), (phone, desk)) * 3)
            )
            replies = await asyncio.gather(*(link.request(Echo(bytes([n]))) for n, link in enumerate(links)))
            assert [reply.data for reply in replies] == [bytes([n]) for n in range(len(links))]
            assert 1 <= len(desk.links.links()) <= 2


async def test_a_restarted_node_keeps_its_port_and_is_linked_again(tmp_path):
    async with two(tmp_path) as (desk, phone, _, _):
        address = desk.links.address
        await desk.stop()
        await desk.open().start()
        assert desk.links.address == address
        await until(lambda: phone.links.linked(desk.id))


async def test_a_taken_port_is_replaced_and_told(tmp_path, caplog):
    async with two(tmp_path) as (desk, phone, _, _):
        old = desk.links.address
        await desk.stop()
        with socket.create_server(split_address(old)):
            await desk.open().start()
            assert desk.links.address != old
            assert "is taken: members will find this node on another one" in caplog.text
            await until(lambda: phone.links.linked(desk.id))
            (state,) = [state for state in phone.links.members() if state.name == "desk"]
            assert state.addresses[0] == desk.links.address
        again = Device(phone.folder, "phone")
        assert again.links.book.addresses(desk.id)[0] == desk.links.address


async def test_a_port_that_the_owner_chose_is_not_replaced(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        device = Device(tmp_path, "desk", peer_port=port)
        with pytest.raises(UsageError, match=f"Members cannot be accepted on 127.0.0.1:{port}"):
            await device.links.start()


async def test_who_cannot_be_dialled(tmp_path):
    async with devices(tmp_path, "desk", "phone") as (desk, phone):
        with pytest.raises(UsageError, match="no link to itself"):
            await desk.links.connect(desk.id)
        with pytest.raises(NotFound, match="No member has the id"):
            await desk.links.connect("x")
        await phone.stop()
        desk.links.book.keep_only(set())
        with pytest.raises(PeerUnreachable, match="Nobody has told this node yet where phone listens"):
            await desk.links.connect(phone.id)


async def test_another_node_at_the_address_is_not_taken_for_the_one_that_was_meant(tmp_path, caplog):
    async with devices(tmp_path, "desk", "phone", "tablet") as (desk, phone, tablet):
        await phone.stop()
        await until(lambda: tablet.identity.roster.member(phone.id))
        tablet.links.book.keep_only(set())
        tablet.links.learn((Hint(phone.id, desk.links.address, tablet.identity.now()),))
        with pytest.raises(PeerUnreachable, match=r"phone does not answer .*Another device answers there than phone"):
            await tablet.links.connect(phone.id)


# Who is not a member


async def dial(address, context):
    reader, writer = await asyncio.open_connection(*split_address(address), limit=CHUNK)
    return SecureStream(reader, writer, context, server_side=False, peer="desk")


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


async def test_a_silent_client_is_told_and_logged(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("ainet.network.links.GREETING_TIMEOUT", 0.1)
    async with devices(tmp_path, "desk") as (desk,):
        reader, writer = await asyncio.open_connection(*split_address(desk.links.address))
        assert b"speaks TLS 1.3" in await reader.read()
        writer.close()
        await writer.wait_closed()
        await until(lambda: "did not say who it is within 0.1 seconds" in caplog.text)


async def test_many_silent_clients_are_turned_away_and_members_still_served(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("ainet.network.links.GREETING_TIMEOUT", 0.5)
    async with two(tmp_path) as (desk, _, _, link):
        clients = [await asyncio.open_connection(*split_address(desk.links.address)) for _ in range(100)]
        await until(lambda: "Too many devices connect at once" in caplog.text)
        assert await link.request(Echo(b"x")) == Blob(b"x")
        for _, writer in clients:
            writer.close()
        for _, writer in clients:
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await until(lambda: not desk.links._listener.busy)


# What a member could send


@contextlib.asynccontextmanager
async def raw(tmp_path, *, greeted=True):
    """A member that speaks frame by frame: yields the other device and the stream."""
    async with devices(tmp_path, "desk", "phone") as (desk, phone):
        Peer(desk)
        await phone.stop()
        await until(lambda: not desk.links.links())
        desk.links.book.keep_only(set())
        stream = await dial(desk.links.address, client_context(phone.identity.credentials()))
        try:
            await stream.handshake()
            hello = hello_of(phone)
            if greeted:
                stream.write(encode_frame(hello))
                await expect(stream, Hello)
                stream.write(encode_frame(Welcome()))
                await expect(stream, Welcome)
                await until(lambda: desk.links.linked(phone.id))
            yield desk, phone, stream
        finally:
            await stream.abort()


def hello_of(device, **changes):
    signed = device.identity.signed_roster
    hello = Hello(PROTOCOL, device.id, "phone", "127.0.0.1:1", "i", device.identity.roster.serial, signed.digest)
    return msgspec.structs.replace(hello, **changes)


async def answer(stream):
    """Return the next frame that is neither a ping nor a pong."""
    while isinstance(frame := await read_frame(stream), Ping | Pong):
        pass
    return frame


async def test_other_protocol_versions_are_refused_with_words(tmp_path, caplog):
    async with raw(tmp_path, greeted=False) as (_, phone, stream):
        stream.write(encode_frame(hello_of(phone, protocol=PROTOCOL + 1)))
        await expect(stream, Hello)
        with pytest.raises(Refused, match=r"speak different protocols \(1 and 2\): update ainet on both"):
            await expect(stream, Welcome)
        await until(lambda: "speak different protocols" in caplog.text)


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


async def greeted_as(desk, phone, instance):
    stream = await dial(desk.links.address, client_context(phone.identity.credentials()))
    await stream.handshake()
    stream.write(encode_frame(hello_of(phone, instance=instance)))
    await expect(stream, Hello)
    stream.write(encode_frame(Welcome()))
    return stream


async def test_short_messages_are_sent_at_once(tmp_path):
    async with two(tmp_path) as (desk, phone, _, _):
        await until(lambda: desk.links.linked(phone.id))
        for link in (desk.links.linked(phone.id), phone.links.linked(desk.id)):
            end = link._stream._writer.get_extra_info("socket")
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_progress_beyond_what_was_allowed_closes_the_link(tmp_path):
    async with raw(tmp_path) as (desk, phone, stream):
        link = desk.links.linked(phone.id)
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
        link = desk.links.linked(phone.id)
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
        Hello(1, "a" * 52, "n", "h:1", "i", 1, b"d"),
        Ping(),
        Call(1, "Echo", msgspec.Raw(b"\x81\xa4data\xc4\x01x")),
        Goodbye("refused", "because"),
        Reply(3, msgspec.Raw(b"\xc0")),
    ]
)


@settings(max_examples=3000)
@given(st.binary(max_size=300))
@example(b"\x91" * 100_000)
@example(b"\x93\x07\x01" + b"\x91" * 100_000)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x93\x0a\x01" + b"\x81\xa1x" * 50_000)
def test_any_bytes_are_a_frame_or_a_protocol_error(data):
    with contextlib.suppress(ProtocolError):
        decode_frame(data)


@settings(max_examples=3000)
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
