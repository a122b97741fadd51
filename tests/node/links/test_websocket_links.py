"""Links through the Jupyter server's own port, where nothing else can be reached."""

from __future__ import annotations

import contextlib

import httpx
import pytest
from support.linked import Echo
from support.served_nodes import LinkedNode
from support.servers import serve
from support.services import DATA, echo, service, talk
from support.swarms import Device, until
from tornado.websocket import websocket_connect

from ainet.errors import PeerUnreachable, Refused
from ainet.links import door
from ainet.links.frames import ToPort
from ainet.timing import Timing
from ainet.wire.websocket import MAX_MESSAGE

pytestmark = pytest.mark.usefixtures("own_jupyter")


@contextlib.asynccontextmanager
async def device(folder, name):
    """A running device next to a server, whose tasks go on."""
    one = Device(folder / name, name)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


@contextlib.asynccontextmanager
async def hub_and_phone(tmp_path, node_class=LinkedNode):
    """A node of which only the Jupyter port can be reached, and a member."""
    async with serve(tmp_path, node_class) as served, device(tmp_path, "phone") as phone:
        hub = served.node
        await phone.joins(hub)
        await until(lambda: hub.links.open_link(phone.id))
        for node in (hub, phone):
            node.links.table.close_all(PeerUnreachable("The test begins."))
            node.links.book._seen.clear()
            node.links.book.learn = lambda *_: None  # the direct way stays unknown
        yield served, hub, phone


async def test_members_are_linked_through_the_jupyter_port(tmp_path):
    async with hub_and_phone(tmp_path) as (served, hub, phone), service(echo) as port:
        link = await phone.links.connect_address(served.url)
        assert (link.peer_id, link.path, link.relay) == (hub.id, served.url, None)
        assert (await link.request(Echo(b"x" * 3_000_000))).data == b"x" * 3_000_000
        back = hub.links.open_link(phone.id)
        assert back.path == "127.0.0.1"
        hub.links.channels.expose("127.0.0.1", port)
        assert await talk(phone.links.channels.open(hub.id, ToPort(port)), DATA) == DATA
        link.close(PeerUnreachable("Enough."))
        await until(lambda: not hub.links.links())


async def test_a_stranger_is_refused_inside(tmp_path, caplog):
    async with hub_and_phone(tmp_path) as (served, hub, _), device(tmp_path, "stranger") as stranger:
        with pytest.raises(Refused, match=r"not of (this|its) swarm"):
            await stranger.links.connect_address(served.url)
        await until(lambda: not hub.links.door.guests)
        assert not hub.links.links()
        assert "was refused" in caplog.text


class Hasty(LinkedNode):
    timing = Timing(greeting=0.3)


async def test_who_proves_nothing_is_let_go(tmp_path):
    async with hub_and_phone(tmp_path, Hasty) as (served, hub, _):
        url = served.url.replace("http", "ws") + "ainet/peer"
        silent = await websocket_connect(url)
        await until(lambda: hub.links.door.guests)
        while await silent.read_message() is not None:
            pass  # the word that tells what this port is for
        silent.close()
        await until(lambda: not hub.links.door.guests)


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1" * 9, b"\x16" + bytes(MAX_MESSAGE - 1), "text", b"x" * (MAX_MESSAGE + 1)]
)
async def test_what_is_no_handshake_is_cut_off(tmp_path, sent):
    async with hub_and_phone(tmp_path) as (served, hub, _):
        client = await websocket_connect(served.url.replace("http", "ws") + "ainet/peer")
        for _ in range(3):
            with contextlib.suppress(Exception):
                client.write_message(sent, binary=isinstance(sent, bytes))
        while await client.read_message() is not None:
            pass
        client.close()
        await until(lambda: not hub.links.door.guests)
        assert not hub.links.links()


async def test_only_so_many_may_wait_to_prove_themselves(tmp_path):
    async with hub_and_phone(tmp_path) as (served, hub, phone):
        url = served.url.replace("http", "ws") + "ainet/peer"
        waiting = [await websocket_connect(url) for _ in range(door.MAX_GUESTS)]
        await until(lambda: len(hub.links.door.guests) == door.MAX_GUESTS)
        with pytest.raises(PeerUnreachable, match="HTTP status 503"):
            await phone.links.connect_address(served.url)
        waiting.pop().close()
        await until(lambda: hub.links.door.may_greet)
        assert await phone.links.connect_address(served.url)
        for one in waiting:
            one.close()
        await until(lambda: not hub.links.door.guests)


async def test_the_route_tells_nothing_to_browsers(tmp_path):
    async with hub_and_phone(tmp_path) as (served, _, _), httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{served.url}ainet/peer")
        assert answer.status_code == 400
        for verb in ("POST", "PUT", "DELETE", "PATCH"):
            assert (await http.request(verb, f"{served.url}ainet/peer")).status_code in {403, 405}
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            "Origin": "http://evil.example",
        }
        assert (await http.get(f"{served.url}ainet/peer", headers=upgrade)).status_code == 403


async def test_a_server_without_a_node_is_named(tmp_path):
    async with serve(tmp_path, LinkedNode) as served, device(tmp_path, "phone") as phone:
        with pytest.raises(PeerUnreachable, match="no node answers behind that Jupyter server"):
            await phone.links.connect_address(f"{served.url}elsewhere/")
        with pytest.raises(PeerUnreachable, match="refused"):
            await phone.links.connect_address("http://127.0.0.1:1/")
