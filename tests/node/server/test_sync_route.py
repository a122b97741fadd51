"""The y-websocket endpoint: unmodified Yjs clients edit what members share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from pathlib import Path

import pytest
from pycrdt import Doc, Map, Text, YMessageType, create_sync_message, create_update_message
from support.served_nodes import SharingNode
from support.servers import JUPYTER_TOKEN, serve, until
from support.swarms import Device
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from ainet.client.document_copy import DocumentCopy
from ainet.client.shared_values import plain, typed
from ainet.documents.exchange import Documents

YJS = Path(__file__).parents[2] / "yjs"
PLAN = "shared/plan"


pytestmark = pytest.mark.usefixtures("own_jupyter")


@pytest.fixture
async def served(tmp_path):
    async with serve(tmp_path, SharingNode) as found:
        yield found


def url_of(served, name=PLAN):
    return f"{served.url.replace('http', 'ws', 1)}ainet/api/sync/{name}"


def dict_of(served):
    return served.node.documents.open(PLAN).doc.get("dict", type=Map)


class JavaScript:
    """A Yjs client in a Node.js process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[dict] = []
        self._reading = asyncio.create_task(self._read())

    @classmethod
    @contextlib.asynccontextmanager
    async def joined(cls, served, token):
        assert (YJS / "node_modules").exists(), "run `make test`, which installs the Yjs client"
        base = f"{served.url.replace('http', 'ws', 1)}ainet/api/sync"
        command = [shutil.which("node") or "node", str(YJS / "client.mjs"), base, PLAN, token]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        client = cls(process)
        try:
            yield client
        finally:
            process.stdin.close()
            async with asyncio.timeout(10):
                await process.wait()
            await client._reading

    def do(self, **command) -> None:
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    @property
    def content(self) -> dict:
        return self.said[-1] if self.said else {}

    async def _read(self) -> None:
        async for line in self._process.stdout:
            self.said.append(json.loads(line))


@pytest.mark.parametrize("by", ["node", "jupyter"])
async def test_an_unmodified_yjs_client_edits_both_ways(served, by):
    token = served.runtime.token if by == "node" else JUPYTER_TOKEN
    dict_of(served)["from"] = "python"
    async with JavaScript.joined(served, token) as one, JavaScript.joined(served, token) as other:
        for client in (one, other):
            await until(lambda client=client: client.content.get("dict") == {"from": "python"}, 15)
        one.do(set=["a", [1, {"b": None}]])
        other.do(insert=[0, "Grüße ☂"])
        text = served.node.documents.open(PLAN).doc.get("text", type=Text)
        await until(lambda: dict_of(served).to_py() == {"from": "python", "a": [1, {"b": None}]})
        await until(lambda: str(text) == "Grüße ☂")
        # Numbers are one kind there, and two here.
        assert repr(typed(dict_of(served).to_py()["a"])) == "[1, {'b': None}]"
        dict_of(served)["n"] = plain({"i": [5, -7, 2**40], "f": 0.5})
        for client in (one, other):
            await until(lambda client=client: client.content["dict"].get("n") == {"i": [5, -7, 2**40], "f": 0.5})
        one.do(set=["big", 2**53 - 1])
        await until(lambda: repr(typed(dict_of(served).to_py()).get("big")) == str(2**53 - 1))
        text += "!"
        for client in (one, other):
            await until(lambda client=client: client.content["text"] == "Grüße ☂!")
        one.do(aware={"name": "Ada"})
        await until(lambda: {"user": {"name": "Ada"}} in other.content.get("others", []))
    await until(lambda: not served.extension.served.rooms.clients)


async def test_a_wrong_token_is_refused(served):
    for token in ("", "wrong"):
        with pytest.raises(HTTPClientError) as refused:
            await websocket_connect(f"{url_of(served)}?token={token}")
        assert refused.value.code == 403
    assert served.node.documents.names() == []


async def test_a_name_that_cannot_be_is_refused(served):
    for name in ("other", "shared/a/b", "shared/" + "x" * 200):
        with pytest.raises(HTTPClientError) as refused:
            await websocket_connect(HTTPRequest(url_of(served, name), headers=served.headers))
        assert refused.value.code == 400


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x00",
        b"\x00\x07\x00",
        b"\x00\x00\xff\xff\xff",
        b"\x09\x00",
        create_update_message(b"\xff" * 30),
        b"\x00\x00\x05\xff\xff\xff\xff\xff",
    ],
    ids=["empty", "short", "unknown-step", "no-length", "unknown-kind", "malformed-update", "malformed-state"],
)
async def test_what_is_no_message_changes_nothing(served, message):
    dict_of(served)["a"] = 1
    saved = served.node.documents.store.updates(PLAN)
    client = await websocket_connect(HTTPRequest(url_of(served), headers=served.headers))
    assert (await client.read_message())[0] == YMessageType.SYNC
    await client.write_message(message, binary=True)
    if message != b"\x09\x00":
        while await client.read_message() is not None:
            pass
        assert client.close_code == 1008
    client.close()
    await until(lambda: not served.extension.served.rooms.clients)
    assert served.node.documents.store.updates(PLAN) == saved


async def test_a_document_that_is_here_no_more_ends_its_clients(served, tmp_path):
    dict_of(served)["a"] = 1
    replica = await asyncio.to_thread(DocumentCopy, served.data_dir, PLAN)
    assert replica.doc.get("dict", type=Map).to_py() == {"a": 1}
    served.node.documents.delete(PLAN)
    await until(lambda: replica.ended)
    replica.close()
    assert not served.extension.served.rooms.clients
    assert served.node.documents.names() == []  # the replica has not brought it back


async def test_what_a_client_edited_reaches_members(served, tmp_path):
    phone = Device(tmp_path / "phone", "phone")
    await phone.start()
    documents = Documents(phone.links, phone.folder / "documents.sqlite", phone.log)
    try:
        await phone.joins(served.node)
        client = await websocket_connect(HTTPRequest(url_of(served), headers=served.headers))
        doc = Doc()
        await client.write_message(create_sync_message(doc), binary=True)
        doc.get("dict", type=Map)["a"] = 1
        await client.write_message(create_update_message(doc.get_update()), binary=True)
        await until(lambda: documents.open(PLAN).doc.get("dict", type=Map).to_py() == {"a": 1})
        client.close()
        while await client.read_message() is not None:  # until the other end has closed, too
            pass
    finally:
        await documents.stop()
        await phone.stop()
