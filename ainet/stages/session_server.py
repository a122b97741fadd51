"""The door of a pipeline: requesters connect to the last stage over TLS and hear their tokens there."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.errors import AinetError, PeerUnreachable, ProtocolError, Refused
from ainet.identity.certificates import certificate_id
from ainet.identity.credentials import server_context
from ainet.stages.protocol.generation import (
    MAX_MESSAGE,
    Alive,
    Allow,
    Command,
    Done,
    Event,
    Failed,
    Guess,
    Open,
    Suggest,
)
from ainet.stages.protocol.sockets import notice_vanished, tune
from ainet.stages.sessions.outbox import Outbox
from ainet.timing import TIMING
from ainet.wire.carrier import TcpCarrier
from ainet.wire.listener import Listener
from ainet.wire.stream import SecureStream

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from ainet.identity.credentials import Credentials
    from ainet.stages.stage import Stage

LENGTH_BYTES = 4
MAX_CONNECTIONS = 16
MAX_BACKLOG = 8 << 20  # bytes that a requester may leave unread before it is cut off
PLAIN_WORD = b"This port speaks TLS 1.3 and is for the owner of a pipeline only.\n"


async def read_message(stream: SecureStream, limit: int = MAX_MESSAGE) -> bytearray:
    """Return the next length-prefixed message; raises `PeerUnreachable` at the end."""
    length = int.from_bytes(await stream.read_exactly(LENGTH_BYTES), "big")
    if length > limit:
        raise ProtocolError(f"A message of {length} bytes arrived; at most {limit} are allowed.")
    return await stream.read_exactly(length)


def pack_message(message: Any) -> bytes:
    """Return `message` with its length before it."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_MESSAGE:
        raise ProtocolError(f"The request has {len(body)} bytes; at most {MAX_MESSAGE} are allowed.")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class SessionServer:
    """Hands a requester's commands to the decode thread, and what it answers back.

    Parameters
    ----------
    stage
        The last stage of a pipeline.
    credentials
        This device's certificate.
    log
        Told about refused connections.
    """

    def __init__(self, stage: Stage, credentials: Credentials, log: logging.Logger) -> None:
        self._stage = stage
        self._context = server_context(credentials)
        self._log = log
        self._decoder = msgspec.msgpack.Decoder(Command)
        self._listener = Listener(self._serve, limit=MAX_CONNECTIONS, log=log)

    async def start(self, host: str) -> int:
        """Listen on `host`; returns the port. Raises OSError."""
        await self._listener.open(host, 0)
        return self._listener.port

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        await self._listener.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        sock = writer.get_extra_info("socket")
        tune(sock)
        notice_vanished(sock)
        stream = SecureStream(TcpCarrier(reader, writer), self._context, server_side=True, peer="the requester")
        try:
            async with asyncio.timeout(TIMING.session_greeting):
                await stream.handshake()
                await self._greet(stream)
        except (AinetError, TimeoutError) as exc:
            self._log.warning("A requester from %s was refused: %s", address, exc or "it said nothing")
            if isinstance(exc, Refused) and stream.received:
                await self._refuse(stream, exc)
            else:
                await stream.refuse(PLAIN_WORD)
            return
        opened: dict[int, Open] = {}
        living = asyncio.create_task(self._live(stream))
        try:
            await self._listen(stream, opened)
        except PeerUnreachable:
            self._log.info("The requester has left.")
            await stream.abort()
            # Its pipeline may be about to be placed again, and to keep its sessions.
            await asyncio.sleep(TIMING.session_left)
        except (AinetError, msgspec.MsgspecError) as exc:
            self._log.warning("A requester was cut off: %s", exc)
            await self._refuse(
                stream, exc if isinstance(exc, AinetError) else ProtocolError(f"The request cannot be read: {exc}")
            )
        finally:
            living.cancel()
            for request in opened.values():
                self._stage.inbox.put(_cancelling(self._stage, request))
            writer.transport.abort()

    async def _live(self, stream: SecureStream) -> None:
        """Give signs of life: so a requester notices when this process is stopped, and not only when it ends."""
        while True:
            await asyncio.sleep(TIMING.alive)
            try:
                stream.write(pack_message(Alive()))
            except AinetError:
                return  # whoever listens has noticed, too

    async def _greet(self, stream: SecureStream) -> None:
        asker = certificate_id(stream.certificate)
        epoch = await read_message(stream, 64)
        if asker != self._stage.spec.owner or not hmac.compare_digest(epoch, self._stage.spec.epoch):
            raise Refused("This pipeline belongs to another node, or was placed again since.")

    async def _refuse(self, stream: SecureStream, error: AinetError) -> None:
        try:
            stream.write(pack_message(Failed(0, error.to_dict())))
        except AinetError:  # the handshake failed: its alert has told the other end
            await stream.refuse(PLAIN_WORD)
        else:
            await stream.close()

    async def _listen(self, stream: SecureStream, opened: dict[int, Open]) -> None:
        while True:
            command = self._decoder.decode(await read_message(stream))
            if isinstance(command, Open):
                self._open(command, opened, stream)
            elif isinstance(command, Guess):
                self._guess(command, stream)
            elif isinstance(command, Suggest) and (request := opened.get(command.session)) is not None:
                self._stage.inbox.put(_suggesting(self._stage, request, command))
            elif isinstance(command, Allow) and (request := opened.get(command.session)) is not None:
                self._stage.inbox.put(_allowing(self._stage, request, command.most))
            elif isinstance(command, Suggest | Allow):
                continue  # the answer has ended meanwhile
            elif (request := opened.get(command.session)) is not None:
                self._stage.inbox.put(_cancelling(self._stage, request))

    def _guess(self, asked: Guess, stream: SecureStream) -> None:
        loop = asyncio.get_running_loop()

        def send(event: Event) -> None:
            if stream.backlog > MAX_BACKLOG:
                stream.cut()
                return
            with contextlib.suppress(AinetError):  # whoever asked has left
                stream.write(pack_message(event))

        def reply(event: Event) -> None:  # called by the decode thread
            loop.call_soon_threadsafe(send, event)

        self._stage.inbox.put(lambda: self._stage.head.guess(asked, reply))

    def _open(self, request: Open, opened: dict[int, Open], stream: SecureStream) -> None:
        if request.session in opened:
            raise ProtocolError(f"Session {request.session} is open already.")
        opened[request.session] = request

        def send(event: Event) -> None:
            if isinstance(event, Done | Failed):
                opened.pop(request.session, None)
            if stream.backlog > MAX_BACKLOG:
                self._log.warning("A requester does not read its answer; it is disconnected.")
                stream.cut()
            else:
                stream.write(pack_message(event))

        outbox = Outbox(asyncio.get_running_loop(), send)
        self._stage.inbox.put(lambda: self._stage.head.open(request, outbox.put))


def _suggesting(stage: Stage, request: Open, suggestion: Suggest) -> Callable[[], None]:
    return lambda: stage.head.suggest(request, suggestion)


def _allowing(stage: Stage, request: Open, most: int) -> Callable[[], None]:
    return lambda: stage.head.allow(request, most)


def _cancelling(stage: Stage, request: Open) -> Callable[[], None]:
    return lambda: stage.head.cancel(request)
