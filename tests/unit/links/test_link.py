import asyncio
import contextlib
import os
import signal
import socket
import sys

import pytest
from support.linked import Blob, Count, Echo, Peer, Progress, Raise, Wait, two
from support.swarms import Device, devices, until

from ainet.errors import AinetError, Busy, NotFound, PeerUnreachable, ProtocolError, UsageError
from ainet.links.calls import MAX_CALLS
from ainet.links.frames import MAX_FRAME, WINDOW, Hint
from ainet.links.request import Request
from ainet.wire.address import split_address

# Requests


async def test_requests_go_both_ways_over_one_link(tmp_path):
    async with two(tmp_path) as (desk, phone, _, link):
        Peer(phone)
        await until(lambda: desk.links.open_link(phone.id))
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
        assert peer.counted < 1000  # of 10,000; some are on their way
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


async def test_short_messages_are_sent_at_once(tmp_path):
    async with two(tmp_path) as (desk, phone, _, _):
        await until(lambda: desk.links.open_link(phone.id))
        for link in (desk.links.open_link(phone.id), phone.links.open_link(desk.id)):
            end = link.transport._carrier._writer.get_extra_info("socket")
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# The end of a link


async def test_a_lost_link_fails_everything_that_waits(tmp_path):
    async with two(tmp_path) as (desk, _, peer, link):
        closed = []
        link.on_close(closed.append)
        tasks = [asyncio.create_task(link.request(Wait(), timeout=None)) for _ in range(5)]
        await until(lambda: peer.waiting == 5)
        (back,) = desk.links.links()
        back.transport._carrier._writer.transport.abort()  # the cable is pulled

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
        link.transport._carrier._writer.transport.abort()
        await until(link.closed.is_set)
        await until(lambda: phone.links.open_link(desk.id) and desk.links.open_link(phone.id))
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
        "-m",
        "support.peer_process",
        str(tmp_path / "other"),
        invitation.ticket,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
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


@pytest.mark.node
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
        await until(lambda: desk.links.open_link(link.peer_id))  # thawed, it comes back


@pytest.mark.node
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
                one.links.table.learn((Hint(other.id, other.links.address, other.identity.now()),))
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
        await until(lambda: phone.links.open_link(desk.id))


async def test_a_taken_port_is_replaced_and_told(tmp_path, caplog):
    async with two(tmp_path) as (desk, phone, _, _):
        old = desk.links.address
        await desk.stop()
        with socket.create_server(split_address(old)):
            await desk.open().start()
            assert desk.links.address != old
            assert "is taken: members will find this node on another one" in caplog.text
            await until(lambda: phone.links.open_link(desk.id))
            (state,) = [state for state in phone.links.members() if state.name == "desk"]
            assert state.addresses[0] == desk.links.address
        await phone.links.book.flush()
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
        tablet.links.table.learn((Hint(phone.id, desk.links.address, tablet.identity.now()),))
        words = ""
        async with asyncio.timeout(20):
            while "Another device answers there than phone" not in words:  # it may be dialled where it was at first
                with pytest.raises(PeerUnreachable, match="phone does not answer") as raised:
                    await tablet.links.connect(phone.id)
                words = raised.value.message


async def test_a_second_handler_of_one_name_is_refused(tmp_path):
    device = Device(tmp_path, "desk")
    Peer(device)
    with pytest.raises(ValueError, match="two handlers for Echo"):
        Peer(device)
