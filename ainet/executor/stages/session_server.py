"""The door of a pipeline: requesters connect to the last stage over TLS and hear their tokens there."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.errors import AinetError, ProtocolError, Refused
from ainet.executor.stages.generation import MAX_MESSAGE, Cancel, Command, Done, Event, Failed, Open
from ainet.executor.stages.sockets import tune
from ainet.identity import peer_id, server_context

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from ainet.executor.stages.stage import Stage
    from ainet.identity import Credentials

LENGTH_BYTES = 4
MAX_BACKLOG = 8 << 20  # bytes that a requester may leave unread before it is cut off
GREETING_SECONDS = 10.0


async def read_message(reader: asyncio.StreamReader, limit: int = MAX_MESSAGE) -> bytes:
    """Return the next length-prefixed message; raises `asyncio.IncompleteReadError` at the end."""
    length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    if length > limit:
        msg = f"A message of {length} bytes arrived; at most {limit} are allowed."
        raise ProtocolError(msg)
    return await reader.readexactly(length)


def pack_message(message: Any) -> bytes:
    """Return `message` with its length before it."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_MESSAGE:
        msg = f"The request has {len(body)} bytes; at most {MAX_MESSAGE} are allowed."
        raise ProtocolError(msg)
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
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str) -> int:
        """Listen on `host`; returns the port."""
        self._server = await asyncio.start_server(
            self._serve, host, 0, ssl=self._context, ssl_handshake_timeout=GREETING_SECONDS
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a stream callback always runs in a task
        self._tasks.add(task)
        opened: dict[int, Open] = {}
        try:
            tune(writer.get_extra_info("socket"))
            await self._greet(reader, writer)
            while True:
                command = self._decoder.decode(await read_message(reader))
                if isinstance(command, Open):
                    self._open(command, opened, writer)
                else:
                    self._cancel(command, opened)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the requester left; its sessions end below
        except (AinetError, msgspec.MsgspecError, TimeoutError) as exc:
            self._log.warning("A requester was refused: %s", exc)
            error = exc if isinstance(exc, AinetError) else ProtocolError(f"The request cannot be read: {exc}")
            writer.write(pack_message(Failed(0, error.to_dict())))
        except asyncio.CancelledError:
            self._log.info("Requesters are disconnected: the stage ends.")
        finally:
            self._tasks.discard(task)
            for request in opened.values():
                self._stage.inbox.put(_cancelling(self._stage, request))
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asker = peer_id(writer.get_extra_info("ssl_object"))
        epoch = await asyncio.wait_for(read_message(reader, 64), GREETING_SECONDS)
        if asker != self._stage.spec.owner or not hmac.compare_digest(epoch, self._stage.spec.epoch):
            msg = "This pipeline belongs to another node, or was placed again since."
            raise Refused(msg)

    def _open(self, request: Open, opened: dict[int, Open], writer: asyncio.StreamWriter) -> None:
        if request.session in opened:
            msg = f"Session {request.session} is open already."
            raise ProtocolError(msg)
        opened[request.session] = request
        loop = asyncio.get_running_loop()

        def send(event: Event) -> None:
            if isinstance(event, Done | Failed):
                opened.pop(request.session, None)
            if writer.is_closing():
                return
            if writer.transport.get_write_buffer_size() > MAX_BACKLOG:
                self._log.warning("A requester does not read its answer; it is disconnected.")
                writer.transport.abort()
                return
            writer.write(pack_message(event))

        def reply(event: Event) -> None:  # called by the decode thread
            loop.call_soon_threadsafe(send, event)

        self._stage.inbox.put(lambda: self._stage.head.open(request, reply))

    def _cancel(self, command: Cancel, opened: dict[int, Open]) -> None:
        request = opened.get(command.session)
        if request is not None:
            self._stage.inbox.put(_cancelling(self._stage, request))


def _cancelling(stage: Stage, request: Open) -> Callable[[], None]:
    return lambda: stage.head.cancel(request)
