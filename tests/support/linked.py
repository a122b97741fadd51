"""Two linked members for tests, and a member that speaks frame by frame."""

import asyncio
import contextlib
from typing import Annotated

import msgspec

from ainet.errors import NotFound
from ainet.identity.credentials import client_context
from ainet.links.frames import PROTOCOL, Hello, Ping, Pong, Welcome, encode_frame, expect, read_frame
from ainet.links.request import Request
from ainet.wire.address import split_address
from ainet.wire.carrier import CHUNK, TcpCarrier
from ainet.wire.stream import SecureStream
from support.swarms import Device, devices, until


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
            raise NotFound("No model is called so.", model="x", nothing=None)
        if request.what == "odd":
            error = NotFound("These details are odd.")
            error.details = {"self": 1, "message": 2}
            raise error
        if request.what == "details":
            raise NotFound("These details cannot travel.", thing=object())
        if request.what == "long":
            raise NotFound("x" * 100_000)
        if request.what == "bug":
            raise RuntimeError("secret internals")
        if request.what == "cancelled":
            raise asyncio.CancelledError
        return Blob(b"not what was promised")


@contextlib.asynccontextmanager
async def two(tmp_path, **settings):
    """Two members with one link between them: yields the devices, the first one's answers, the second one's link."""
    async with devices(tmp_path, "desk", "phone", **settings) as (desk, phone):
        peer = Peer(desk)
        yield desk, phone, peer, await phone.links.connect(desk.id)


async def dial(address, context):
    reader, writer = await asyncio.open_connection(*split_address(address), limit=CHUNK)
    return SecureStream(TcpCarrier(reader, writer), context, server_side=False, peer="desk")


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
                await until(lambda: desk.links.open_link(phone.id))
            yield desk, phone, stream
        finally:
            await stream.abort()


def hello_of(device, **changes):
    signed = device.identity.signed_roster
    hello = Hello(PROTOCOL, device.id, "phone", ("127.0.0.1:1",), "i", device.identity.roster.serial, signed.digest)
    return msgspec.structs.replace(hello, **changes)


async def answer(stream):
    """Return the next frame that is neither a ping nor a pong."""
    while isinstance(frame := await read_frame(stream), Ping | Pong):
        pass
    return frame


async def greeted_as(desk, phone, instance):
    stream = await dial(desk.links.address, client_context(phone.identity.credentials()))
    await stream.handshake()
    stream.write(encode_frame(hello_of(phone, instance=instance)))
    await expect(stream, Hello)
    stream.write(encode_frame(Welcome()))
    return stream
