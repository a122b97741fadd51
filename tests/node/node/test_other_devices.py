"""``ainet peers`` and ``ainet connect``: a real node, and devices of its owner and of others next to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import httpx
import msgspec
import pytest
from support.nodes import ainet, alive, answer_of, family_of
from support.swarms import Device, devices, until

from ainet.api.answers import Answers
from ainet.client.client import NodeClient
from ainet.daemon import daemon, runtime
from ainet.executor.directory import PipelineDirectory
from ainet.links.bandwidths import Bandwidths
from ainet.links.standing import Standing
from ainet.node.peers import Peers
from ainet.swarm.feeds import Feeds
from ainet.wire.address import join_address

#: All that a row says of a contact: how it is reached, and nothing of what it has.
OF_A_CONTACT = {"id", "name", "kind", "reached", "path", "latency_s", "bandwidth", "last_seen", "addresses"}


@pytest.fixture(scope="module")
def desk(jupyter_dirs, tmp_path_factory):
    """The data directory of a node of these tests' own."""
    data_dir = tmp_path_factory.mktemp("desk")
    daemon.up(data_dir, {"name": "desk", "threads": 1, "memory": "1GB"})
    family = family_of(runtime.find(data_dir))
    yield data_dir
    daemon.down(data_dir)
    assert not alive(family)


async def ask(desk, call):
    """Return what `call` makes of a client of the node."""

    def work():
        with NodeClient.running(desk) as node:
            return call(node)

    return await asyncio.to_thread(work)


async def command(desk, *words):
    """Run the ``ainet`` command for the node, while the devices of the test go on."""
    return await asyncio.to_thread(ainet, *words, data_dir=desk)


async def row(desk, name):
    """Return what ``ainet peers`` says of the device, for programs and for people."""
    found = answer_of(await command(desk, "peers", "--json"))
    (lines,) = [line for line in (await command(desk, "peers")).stdout.splitlines() if line.startswith(name)]
    return next(one for one in found if one["name"] == name), lines


@contextlib.asynccontextmanager
async def peers_of(device):
    """Yield what a device knows of others, as its node would describe them."""
    logs = Feeds(device.links, device.folder / "logs.sqlite", device.log)
    try:
        yield Peers(device.links, logs, PipelineDirectory(device.links, logs), Bandwidths(device.log), Answers())
    finally:
        await logs.stop()


async def test_a_contact_is_a_row_that_tells_how_it_is_reached_and_nothing_else(desk, tmp_path):
    async with devices(tmp_path, "bob", "carl") as (bob, _), peers_of(bob) as peers:
        ticket = (await ask(desk, lambda node: node.introduce())).ticket
        node_id = (await bob.pairing.accept(ticket)).id
        await until(lambda: bob.links.open_link(node_id, Standing.CONTACT))
        async with asyncio.timeout(20):
            while not any(one.connected for one in await ask(desk, lambda node: node.contacts())):
                await asyncio.sleep(0.05)
        found, line = await row(desk, "bob")
        assert found.keys() == OF_A_CONTACT
        assert (found["id"], found["kind"], found["reached"]) == (bob.id, "contact", "direct")
        assert 0 < found["latency_s"] < 10
        assert found["bandwidth"] > 0
        assert abs(found["last_seen"] - time.time()) < 30
        assert found["addresses"] == [bob.links.address]
        assert line.split()[:4] == ["bob", "contact", "direct,", found["path"]]
        # The node's own members would read in its log what it has; a contact does not.
        theirs = next(one for one in await peers.all() if one.id == node_id)
        assert msgspec.to_builtins(theirs).keys() == OF_A_CONTACT
        assert (theirs.kind, theirs.reached) == ("contact", "direct")
        assert "carl" not in str(await ask(desk, lambda node: node.peers()))

        await bob.stop()
        async with asyncio.timeout(20):
            while (away := (await row(desk, "bob")))[0]["reached"] != "no":
                await asyncio.sleep(0.05)
        found, line = away
        assert found.keys() == OF_A_CONTACT
        assert [found[name] for name in ("path", "latency_s", "bandwidth")] == [None] * 3
        assert abs(found["last_seen"] - time.time()) < 60
        assert line.split()[:3] == ["bob", "contact", "unreachable"]
        await ask(desk, lambda node: node.forget("bob"))


@contextlib.asynccontextmanager
async def moved(desk, tmp_path):
    """A member of the node's swarm that is back on a port that nobody knows, and knows nobody's itself."""
    phone = Device(tmp_path / "phone", "phone")
    await phone.start()
    try:
        await phone.pairing.join((await ask(desk, lambda node: node.invite())).ticket)
        old = phone.links.address
        await phone.stop()
        phone.open()
        phone.links.book.keep_only(set())
        phone.links.book.port = 0
        with socket.create_server(("127.0.0.1", int(old.rpartition(":")[2]))):
            await phone.start()
        yield phone
    finally:
        await phone.stop()
        await ask(desk, lambda node: node.remove("phone"))


async def test_a_member_at_another_address_is_connected_and_remembered(desk, tmp_path):
    async with moved(desk, tmp_path) as phone:
        address = phone.links.address
        async with asyncio.timeout(20):
            while (before := (await row(desk, "phone"))[0])["reached"] != "no":
                await asyncio.sleep(0.05)
        assert address not in before["addresses"]
        done = await command(desk, "connect", address)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"Connected to phone ({address}).\n", "")
        found, _ = await row(desk, "phone")
        assert (found["kind"], found["reached"], found["path"]) == ("member", "direct", address)
        assert found["addresses"][0] == address
        as_json = answer_of(await command(desk, "connect", address, "--json"))
        assert as_json == {"id": phone.id, "name": "phone", "path": address}


async def test_who_cannot_be_connected_is_said_in_one_line(desk, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = join_address(*free.getsockname())
    own = (await ask(desk, lambda node: node.status())).node.address
    async with devices(tmp_path, "stranger") as (stranger,):
        for address, status, words in (
            ("nonsense", 2, "'nonsense' is no address. Write host:port, or the https:// address of a Jupyter server."),
            ("127.0.0.1:0", 2, "'127.0.0.1:0' is no address. "),
            ("127.0.0.1:99999", 2, "'127.0.0.1:99999' is no address. "),
            (nobody, 1, f"{nobody}: Connection refused"),
            (own, 1, "This is the device itself: a node needs no link to itself."),
            (stranger.links.address, 1, f"The device at {stranger.links.address} showed a certificate that is not"),
        ):
            done = await command(desk, "connect", address)
            assert (done.returncode, done.stdout) == (status, ""), address
            assert done.stderr.startswith("ainet: " + words), done.stderr
            assert done.stderr.count("\n") == 1


async def test_the_route_answers_with_errors_in_words(desk):
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = join_address(*free.getsockname())
    running = runtime.find(desk)
    headers = {"Authorization": f"Bearer {running.token}"}
    async with httpx.AsyncClient(base_url=f"{running.url}ainet/api/", trust_env=False, headers=headers) as http:
        for body, status, code, words in (
            ({"address": nobody}, 502, "unreachable", f"{nobody}: Connection refused"),
            ({"address": "nonsense"}, 400, "usage", "no address"),
            ({"address": "x" * 300}, 400, "usage", "address"),
            ({"address": 7}, 400, "usage", "`$.address`"),
            ({}, 400, "usage", "missing required field `address`"),
            ({"address": nobody, "more": 1}, 400, "usage", "unknown field `more`"),
        ):
            answer = await http.post("links", json=body)
            assert answer.status_code == status, answer.text
            assert answer.json()["code"] == code
            assert words in answer.json()["message"]
